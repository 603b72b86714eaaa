"""Who holds the guest and moves it. Every carer has the same four verbs, so that a bench treats all alike."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from bascule.lab.guest_vm import GuestVm
from bascule.lab.laboratory import Lab

HOSTS = ("h1", "h2")
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Moved:
    """One move, or the attempt at one.

    `total_s` until it runs on the destination, `all_s` until the source's copy is gone (None: not measured).
    `blackout_ms` is QEMU's STOP on the source to QEMU's RESUME on the destination. `begin_ns` and `end_ns` are readings
    of CLOCK_MONOTONIC between which it happened. `facts` are for the reader: the report, QEMU's last statistics.
    """

    outcome: str  # "completed", "gave up", "failed"
    reason: str
    begin_ns: int
    end_ns: int
    total_s: float | None = None
    all_s: float | None = None
    blackout_ms: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def completed(self) -> bool:
        """Whether the guest runs on the other host now."""
        return self.outcome == "completed"


class Carer(Protocol):
    """Holds one guest."""

    def boot(self) -> None:
        """Start the guest on h1, and wait until it answers."""

    def move(self) -> Moved:
        """Move it to the other host."""

    def end(self) -> None:
        """End the guest; nothing of it is left."""


class BasculeGuest:
    """A guest in the care of the lab's agents, moved by the command that a user would type."""

    def __init__(self, lab: Lab, guest: GuestVm, *, options: tuple[str, ...] = (), sections: str = "") -> None:
        self.lab, self.guest = lab, guest
        self.host = ""
        self._options, self._sections = options, sections

    def boot(self) -> None:
        self.guest.start(self.lab, HOSTS[0], self._sections)
        self.host = HOSTS[0]

    def move(self) -> Moved:
        target = other(self.host)
        begin_ns = time.monotonic_ns()
        argv = ["bascule", "migrate", self.guest.name, target, "--json", *self._options]
        done = self.lab.run(self.host, argv, timeout_s=PATIENCE_S)
        end_ns = time.monotonic_ns()
        try:
            report = json.loads(done.stdout)
        except ValueError:
            return Moved("failed", done.stderr.strip() or f"status {done.returncode}", begin_ns, end_ns)
        if report.get("outcome") != "completed":
            return Moved("failed", str(report.get("reason", report)), begin_ns, end_ns, facts={"report": report})
        self.host = target
        runs_s = next(mark["at_s"] for mark in report["marks"] if mark["what"] == "RESUME")
        return Moved(
            "completed",
            "",
            begin_ns,
            end_ns,
            total_s=runs_s,
            all_s=report["total_s"],
            blackout_ms=report["blackout_ms"],
            facts={"report": report},
        )

    def end(self) -> None:
        if self.host:
            path = f"/v1/vms/{self.guest.name}"
            self.lab.request(self.host, "POST", f"{path}/stop", {"force": True})
            self.lab.request(self.host, "DELETE", path)
            self.host = ""


def other(host: str) -> str:
    """Return the other one of the two hosts."""
    return HOSTS[1 - HOSTS.index(host)]


def flush() -> None:
    """Let nothing that was written earlier be written during a move."""
    subprocess.run(["sync"], check=True)


def moves_in_turn(number: int, carers: list[tuple[str, Callable[[], Moved]]]) -> list[tuple[str, Callable[[], Moved]]]:
    """Return the order for round `number`: each round begins with another one, so that none is always first."""
    start = number % len(carers) if carers else 0
    return carers[start:] + carers[:start]
