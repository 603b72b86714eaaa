"""Telling those who watch a move how far it is, without ever waiting for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from bascule.migration import facts

MOST_WAITING = 256
MESSAGES = {
    "checking": "checking both hosts",
    "preparing": "starting a paused QEMU on the destination",
    "offering": "writing the offer to the journal",
    "copying": "copying memory while the VM runs",
    "saving": "the VM stands still while its state is saved",
    "switching-over": "the VM stands still while the last of its state is sent",
    "cancelling": "ending the copy",
    "withdrawing": "withdrawing the offer; the VM runs on here",
    "deciding": "waiting for the destination's decision",
    "unsettled": "the destination does not answer; the paused copy is kept",
    "releasing": "the VM runs on the destination; removing the copy here",
    "letting-go": "the VM belongs to the destination, and has ended on both hosts",
    "confirming": "an operator gave the VM to the destination; asking whether it runs there",
    "resuming": "the VM is let run on here",
    "ended": "ended",
}


class Watchers:
    """The watchers of one move. A slow one loses the oldest progress, never the end."""

    def __init__(self, move_id: str) -> None:
        self.latest: dict[str, Any] = {"move": move_id, "at_s": 0.0, "phase": "checking"}
        self.report: dict[str, Any] | None = None
        self._queues: set[asyncio.Queue[tuple[str, dict[str, Any]]]] = set()
        self._copy = {"round": 0, "remaining_bytes": 0, "transferred_bytes": 0, "total_bytes": 0}
        self._rate = 0.0

    def tell(
        self,
        *,
        at_s: float,
        phase: str,
        copy: facts.CopyProgress | None,
        total_bytes: int,
        rate_bytes_per_s: float,
        forecast_blackout_ms: float | None,
    ) -> None:
        """Tell how far the move is."""
        if copy is not None:
            self._copy = {
                "round": copy.round,
                "remaining_bytes": copy.remaining_bytes,
                "transferred_bytes": copy.transferred_bytes,
                "total_bytes": total_bytes,
            }
            self._rate = rate_bytes_per_s
        self.latest = {
            "move": self.latest["move"],
            "at_s": round(at_s, 3),
            "phase": phase,
            **self._copy,
            "rate_bytes_per_s": round(self._rate),
            "forecast_blackout_ms": forecast_blackout_ms,
            "message": MESSAGES.get(phase, phase),
        }
        self._put("progress", self.latest)

    def end(self, report: dict[str, Any]) -> None:
        """Tell how the move ended."""
        self.report = report
        self._put("end", report)

    def _put(self, kind: str, data: dict[str, Any]) -> None:
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait((kind, data))

    async def follow(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield ("progress", ...) from the present state on, and ("end", report) last."""
        queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(MOST_WAITING)
        self._queues.add(queue)
        try:
            yield "progress", self.latest
            if self.report is not None:
                yield "end", self.report
                return
            while True:
                kind, data = await queue.get()
                yield kind, data
                if kind == "end":
                    return
        finally:
            self._queues.discard(queue)
