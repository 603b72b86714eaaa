"""Moves back and forth between two hosts: most of them live, some quick, some cancelled, some refused.

Each is followed as the command line follows it, by its stream of events. What a move's end is, is known only where
nothing raced with it; wherever it ended, the VM has to run there, and is moved on from there.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bascule.errors import Failed
from bascule.lab.unix_http import request

END_S = 120.0
ASK_S = 60.0


@dataclass
class Workload:
    """One VM that goes back and forth between `h1` and `h2`, whose agents listen on `sockets`."""

    sockets: Mapping[str, Path]
    vm: str
    seed: int = 1
    deadline_s: float = 60.0
    outcomes: Counter[str] = field(default_factory=Counter)
    at: str = "h1"

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - a schedule that can be repeated, no secret

    def one(self) -> str:
        """Perform one move and return its outcome. Raises Failed if it is none of its kind, or the VM is elsewhere."""
        kind = self._random.choices(("live", "quick", "cancelled", "refused"), (80, 8, 7, 5))[0]
        outcome = "refused" if kind == "refused" else self._move(kind)
        if kind == "refused":
            self._refused()
        expected = {"live": ("completed",), "quick": ("completed",), "refused": ("refused",)}
        if outcome not in expected.get(kind, ("completed", "cancelled")):
            raise Failed(f"a move of kind {kind} from {self.at} ended {outcome}")
        if outcome == "completed":
            self.at = self.other
        state = self.do(self.at, "GET", f"/v1/vms/{self.vm}")["state"]
        if state != "running":
            raise Failed(f"after a move that was {outcome} vm {self.vm} is {state} on {self.at}")
        self.outcomes[f"{kind} {outcome}"] += 1
        return outcome

    @property
    def other(self) -> str:
        """The host where the VM is not."""
        return "h2" if self.at == "h1" else "h1"

    def ask(self, host: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask the agent of a host."""
        return request(self.sockets[host], method, path, body, timeout_s=ASK_S)

    def do(self, host: str, method: str, path: str, body: Any = None) -> Any:
        """Ask the agent of a host for what has to succeed. Raises Failed otherwise."""
        status, answer = self.ask(host, method, path, body)
        if not 200 <= status < 300:
            raise Failed(f"{method} {path} on {host} was answered with HTTP status {status}: {answer}")
        return answer

    def _refused(self) -> None:
        """A promise that cannot be kept, or a host that nobody knows."""
        wish = {"vm": self.vm, "destination": self.other, "max_blackout_ms": 0.01, "deadline_s": 10}
        if self._random.random() < 0.5:
            wish["destination"] = "h9"
        status, answer = self.ask(self.at, "POST", "/v1/moves", wish)
        if status != 409:
            raise Failed(f"a move that cannot be was answered with HTTP status {status}: {answer}")

    def _move(self, kind: str) -> str:
        wish = {
            "vm": self.vm,
            "destination": self.other,
            "mode": "quick" if kind == "quick" else "live",
            "max_blackout_ms": 2000,
            "deadline_s": self.deadline_s,
        }
        answer = self.do(self.at, "POST", "/v1/moves", wish)
        if kind == "cancelled":
            self.ask(self.at, "POST", f"/v1/moves/{answer['id']}/cancel")
        report = self.follow(answer["id"])
        if report["outcome"] not in ("completed", "cancelled"):
            raise Failed(f"a {kind} move from {self.at} was {report['outcome']}: {report['reason']}")
        return str(report["outcome"])

    def follow(self, move_id: str) -> dict[str, Any]:
        """Read the events of a move to its end, and return the report."""
        connection = http.client.HTTPConnection("localhost", timeout=END_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(END_S)
            connection.sock.connect(str(self.sockets[self.at]))
            connection.request("GET", f"/v1/moves/{move_id}/events")
            ended = False
            for line in connection.getresponse():
                if ended and line.startswith(b"data: "):
                    report: dict[str, Any] = json.loads(line[6:])
                    return report
                ended = ended or line.strip() == b"event: end"
        finally:
            connection.close()
        raise Failed(f"the events of move {move_id} ended before the move")
