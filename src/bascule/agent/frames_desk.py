"""Where frames that another agent sends for a VM find the move that they belong to, also just after it has ended.

After the end of a move on the destination the source still sends what came late; and what comes back to a source where
the VM stays reaches it when it has told its user already. So these stay at the desk for some seconds more.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from bascule.agent.frames_in import FramesIn
from bascule.agent.frames_out import FramesOut
from bascule.network.handover.parcel import unpack

LINGER_S = 5.0


class _Side(Protocol):
    @property
    def stays(self) -> bool:
        """Whether frames may still come for it."""

    def close(self) -> None:
        """Watch no more."""


class FramesDesk:
    """Of one agent."""

    def __init__(self) -> None:
        self._incoming: dict[str, FramesIn] = {}
        self._outgoing: dict[str, FramesOut] = {}
        self._leaving: dict[str, tuple[asyncio.TimerHandle, _Side]] = {}

    def expect(self, move_id: str, side: FramesIn) -> None:
        """Frames for a VM that arrives go to `side`."""
        self._incoming[move_id] = side

    def expect_back(self, move_id: str, side: FramesOut) -> None:
        """Frames that come back for a VM that was to leave go to `side`."""
        self._outgoing[move_id] = side

    def places_taken(self, side: FramesOut) -> None:
        """`side` holds its VM's places from now on, and lets them go; a move that brought it here does not any more."""
        for incoming in self._incoming.values():
            if incoming.vm_uuid == side.vm_uuid:
                incoming.leave_places()

    def came(self, move_id: str, batch: bytes, *, again: bool = False, last: bool = False) -> dict[str, dict[str, int]]:
        """Frames came from the other agent, some of them perhaps `again`; no more will after the `last`.

        Raises Refused for what is no batch; those of a move long over are lost.
        """
        parcels = list(unpack(batch))
        if (incoming := self._incoming.get(move_id)) is not None:
            answer = {"frames": incoming.carry(parcels, again=again)}
            if last:
                incoming.close()
            return answer
        if (outgoing := self._outgoing.get(move_id)) is not None:
            return {"frames": outgoing.put_back(parcels)}
        return {"frames": {"lost": len(parcels)}}

    def ended(self, move_id: str) -> None:
        """The move has ended; its side stays some seconds more, if frames may come for it."""
        side: _Side | None = self._incoming.get(move_id) or self._outgoing.get(move_id)
        if side is None or move_id in self._leaving:
            return
        if not side.stays:
            self._incoming.pop(move_id, None)
            self._outgoing.pop(move_id, None)
            side.close()
            return
        timer = asyncio.get_running_loop().call_later(LINGER_S, self._let_go, move_id)
        self._leaving[move_id] = (timer, side)

    def _let_go(self, move_id: str) -> None:
        _timer, side = self._leaving.pop(move_id)
        incoming = self._incoming.pop(move_id, None)
        self._outgoing.pop(move_id, None)
        side.close()
        if incoming is not None:
            asyncio.get_running_loop().run_in_executor(None, incoming.let_places_go)

    def close(self) -> None:
        """Close all."""
        for timer, _side in self._leaving.values():
            timer.cancel()
        self._leaving.clear()
        sides: list[_Side] = [*self._incoming.values(), *self._outgoing.values()]
        for side in sides:
            side.close()
        self._incoming.clear()
        self._outgoing.clear()
