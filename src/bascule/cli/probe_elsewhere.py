"""A probe beside a move that another host runs: a client's view from where the clients are.

This host's agent asks that host's agent (`agent.probes`). The probe there lives on a lease, which a thread renews here;
when this command is killed, it ends by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from bascule.cli.client import AgentClient, url
from bascule.cli.probe_wish import Wish, usual_hz
from bascule.errors import BasculeError

RENEW_EVERY_S = 4.0
TIMEOUT_S = 30.0


class Elsewhere:
    """Probes on another host, the first of which is the report's. Use `begin_elsewhere`."""

    def __init__(self, client: AgentClient, host: str) -> None:
        self._client = client
        self._host = host
        self._numbers: list[str] = []
        self._ended = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="probe leases", daemon=True)

    def start(self, wishes: Sequence[Wish], address: str, hz: float | None) -> None:
        """Start a probe for each wish. Raises Refused when one cannot be asked from there."""
        for wish in wishes:
            target = wish.target(address)
            begun = self._client.change(
                "POST",
                url("probes"),
                {"host": self._host, "kind": wish.kind, "target": target, "hz": hz or usual_hz(wish.kind)},
                attempted=f"probe {target} from host {self._host}",
                look="nothing was moved; a probe that was begun ends by itself",
                timeout_s=TIMEOUT_S,
            )
            self._numbers.append(begun["id"])
            if not self._renewer.is_alive():
                self._renewer.start()

    def outages(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        """What each saw of the move that has just ended, as it stands in a report."""
        return [
            self._client.change(
                "POST",
                url("probes", self._host, number, "outage"),
                {"move_id": report["id"], "started_at": report["started_at"]},
                attempted=f"learn what host {self._host} saw of move {report['id']}",
                look="the move's report stands without it",
                timeout_s=TIMEOUT_S,
            )
            for number in self._numbers
        ]

    def end(self) -> None:
        """End them. One that cannot be told ends when its lease runs out."""
        self._ended.set()
        if self._renewer.is_alive():
            self._renewer.join()
        for number in self._numbers:
            with suppress(BasculeError):
                self._change("DELETE", url("probes", self._host, number))

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_EVERY_S):
            for number in list(self._numbers):
                with suppress(BasculeError):  # what became of it is asked for at the end
                    self._change("POST", url("probes", self._host, number, "renew"))

    def _change(self, method: str, path: str) -> None:
        self._client.change(
            method, path, {} if method == "POST" else None, attempted="keep a probe", look="", timeout_s=RENEW_EVERY_S
        )


@contextmanager
def begin_elsewhere(
    client: AgentClient, host: str, wishes: Sequence[Wish], address: str, hz: float | None
) -> Iterator[Elsewhere]:
    """Have `host` probe for as long as the context lasts.

    Raises:
        Refused: no such host, or the VM cannot be seen from there.
    """
    elsewhere = Elsewhere(client, host)
    try:
        elsewhere.start(wishes, address, hz)
        yield elsewhere
    finally:
        elsewhere.end()
