"""Sends frames to the other agent so that each reaches its VM once, however late, and whatever got lost between.

A batch stays here until it was answered. Without an answer it is sent again: the other side tells by their numbers
which frames it has got, in whatever order the batches come. Only an agent that has restarted meanwhile cannot tell. So
a batch that may have come before is sent with that said, and such an agent takes none of it: frames are lost then, and
none is doubled.

The first frames travel with the notice of the stop, which is quick and not answered, and count as sent when they have
been sent once more in a batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from bascule.agent.peers import NoAnswerError
from bascule.errors import BasculeError
from bascule.network.handover.parcel import Parcel, pack

BATCH_FRAMES = 500
FIRST_BATCH_BYTES = 24_000  # with the notice, which must not wait for more
MOST_WAITING = 4000  # the taps' own watches keep as many again
AGAIN_S = 0.1

# A batch, and whether some of it may have come before, and whether it is the last; returns what became of all so far.
Hand = Callable[[bytes, bool, bool], Awaitable[Mapping[str, int]]]


class FrameSender:
    """What one VM's frames are sent by. Only one `send` at a time has a batch under way."""

    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        self._waiting: list[Parcel] = []
        self._tried = 0  # so many of those that wait were sent before, and not answered
        self._sending = asyncio.Lock()
        self.sent = 0
        self.refused = 0
        self.there: dict[str, int] = {}  # what became of them there, as was answered last
        self.why: set[str] = set()

    @property
    def has_room(self) -> bool:
        """Whether more may be added; a burst may exceed it once."""
        return len(self._waiting) < MOST_WAITING

    @property
    def waiting(self) -> int:
        """How many are not known to have come."""
        return len(self._waiting)

    def add(self, parcels: Sequence[Parcel]) -> None:
        """Send these after the others."""
        self._waiting += parcels

    def first_batch(self) -> bytes:
        """As many as go with the notice of the stop, in a batch. They are sent again."""
        length = 0
        for parcel in self._waiting:
            length += len(parcel.frame)
            if length > FIRST_BATCH_BYTES:
                break
            self._tried += 1
        return pack(self._waiting[: self._tried])

    async def send(self, *, final: bool = False) -> bool:
        """Send all that waits. Return whether that was possible, else it waits on. `final`: say that it was all."""
        async with self._sending:
            while self._waiting or final:
                batch = self._waiting[:BATCH_FRAMES]
                again, last = self._tried > 0, final and len(batch) == len(self._waiting)
                self._tried = max(self._tried, len(batch))
                try:
                    self.there = dict(await self._hand(pack(batch), again, last))
                except NoAnswerError as error:
                    self.why.add(str(error))
                    return False
                except BasculeError as error:
                    self.why.add(str(error))
                    self.refused += len(batch)
                else:
                    self.sent += len(batch)
                del self._waiting[: len(batch)]
                self._tried = max(0, self._tried - len(batch))
                if last:
                    break
        return True

    async def finish(self, within_s: float) -> bool:
        """Send the rest, again and again if need be. Return whether all was answered in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while True:
                    if await self.send(final=True):
                        return True
                    await asyncio.sleep(AGAIN_S)
        return False
