"""Beside a move, on the source: the guest's addresses for the destination, and whether the network follows the VM.

The addresses go along with the preparation, and once more if they have changed when the VM is about to stop. The watch
begins when the destination says that the VM runs, and is beside the move, which nothing of this holds up: the report
says what is known when it is written, and is completed when more is. Frames are counted in the kernel, as they come in
by the ports to the network: those of a switch that does not know the VM's new place, or that sends a frame for an
unknown MAC everywhere. While some come, the destination is told, and announces again, four times at most.

Crash points: none. Nothing is kept; after a restart of this agent the report stays as it was written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog

from bascule.agent.peers import NoAnswerError, Peers
from bascule.agent.vm_network import VmNetwork
from bascule.errors import BasculeError
from bascule.migration.model import Move
from bascule.network.arrivals import WireCount

LOOK_AFTER_S = (0.1, 0.2, 0.4, 0.8)
ANSWER_DEADLINE_S = 14.0  # the destination answers as soon as it has seen something, and after 10 s in any case
NOT_YET = "the report was written before anything was seen"

Spawn = Callable[[Coroutine[Any, Any, None], str], object]
Amend = Callable[[str, dict[str, Any]], Awaitable[None]]


class DepartureWatch:
    """Watches one move away from here. `spawn` runs a task that may outlive the move; `amend` completes its report."""

    def __init__(self, move: Move, peer: str, peers: Peers, network: VmNetwork, *, spawn: Spawn, amend: Amend) -> None:
        self._move = move
        self._peer = peer
        self._peers = peers
        self._network = network
        self._spawn = spawn
        self._amend = amend
        self._told: set[tuple[str, str, str]] = set()
        self._counter: WireCount | None = None
        self._is_counted = False
        self._finding: dict[str, Any] | None = None
        self._at_source = 0
        self._last_came_ms = 0.0
        self._ran_s: float | None = None
        self._reported = False

    def addresses(self) -> list[dict[str, Any]]:
        """The guest's addresses as they are known now, to be told to the destination."""
        rows = self._network.to_json()
        self._told = _named(rows)
        return rows

    async def tell_addresses(self) -> None:
        """The VM is about to stop: tell the destination if the guest's addresses are others than it was told."""
        if _named(self._network.to_json()) != self._told:
            path = f"/v1/peer/moves/{self._move.id}/addresses"
            with suppress(NoAnswerError, BasculeError):  # it announces what it knows, and the guest the rest
                await self._peers.ask(self._peer, "PUT", path, {"network": self.addresses()}, deadline_s=2)

    async def get_ready(self) -> None:
        """Have the counters stand before they are needed. What fails here is only not counted."""
        if self._counter is not None or not self._network.nics:
            return
        await self._network.find_wires()
        try:
            watched = [(nic.mac, port) for nic in self._network.nics for port in nic.wires or ()]
            self._counter = WireCount(watched)
        except OSError as error:
            structlog.get_logger().warning("frames for the VM cannot be counted", move=self._move.id, why=str(error))

    def ran(self) -> None:
        """The destination says that the VM runs. It takes microseconds."""
        if self._ran_s is None and self._network.nics:
            self._ran_s = time.monotonic()
            self._is_counted = self._counter is not None
            self._count(first=True)
            self._spawn(self._watch(), f"departure {self._move.id}")

    def release(self) -> None:
        """Nobody needs the counters any more: the move has ended in another way."""
        if self._ran_s is None and self._counter is not None:
            counter, self._counter = self._counter, None
            asyncio.get_running_loop().run_in_executor(None, counter.close)

    def for_report(self) -> dict[str, Any] | None:
        """What is known now; the report that gets this is completed when more is."""
        if self._ran_s is None:
            return None
        self._count()
        self._reported = True
        return self._known()

    # --- the watch ---------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        try:
            await self._ask()
            await self._tell()
            for wait_s in LOOK_AFTER_S:
                await asyncio.sleep(wait_s)
                if not self._count():
                    break
                await self._ask(still_here=True)
            await self._tell()
        finally:
            counter, self._counter = self._counter, None
            if counter is not None:
                await asyncio.to_thread(counter.close)

    async def _ask(self, *, still_here: bool = False) -> None:
        path = f"/v1/peer/moves/{self._move.id}/arrival"
        body = {"vm_uuid": self._move.vm_uuid, "still_here": still_here}
        with suppress(NoAnswerError, BasculeError):
            answer = await self._peers.ask(self._peer, "POST", path, body, deadline_s=ANSWER_DEADLINE_S)
            self._finding = dict(answer)

    async def _tell(self) -> None:
        self._count()
        if self._finding is None:
            self._finding = {"state": "not seen", "why": f"{self._move.destination} did not say what it saw"}
        if self._reported:
            with suppress(BasculeError):
                await self._amend(self._move.id, self._known())

    def _count(self, *, first: bool = False) -> int:
        """Take what has come since the last time. What came before the VM ran is not counted."""
        if self._counter is None or self._ran_s is None:
            return 0
        came = 0
        with suppress(OSError):
            came = self._counter.take()
        if came and not first:
            self._at_source += came
            self._last_came_ms = (time.monotonic() - self._ran_s) * 1000
        return came

    def _known(self) -> dict[str, Any]:
        finding = self._finding or {"state": "watching", "why": NOT_YET}
        return {
            "state": str(finding.get("state", "not seen")),
            "verified_ms": finding.get("verified_ms"),
            "clock": self._move.destination,
            "why": str(finding.get("why", "")),
            "announcements": finding.get("announcements", 0),
            "announced_frames": finding.get("announced_frames", 0),
            "at_source_after_run": self._at_source if self._is_counted else None,
            "at_source_for_ms": round(self._last_came_ms, 1),
            "nics": finding.get("nics", []),
        }


def _named(rows: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {(row["mac"], each["address"], str(each["vlans"])) for row in rows for each in row["known"]}
