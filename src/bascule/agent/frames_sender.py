"""Sends frames to the other agent so that each reaches its VM once, however late, and whatever got lost between.

A batch stays here until it was answered. Without an answer it is sent again: the other side tells by their numbers
which frames it has got, in whatever order the batches come. Only an agent that has restarted meanwhile cannot tell. So
a batch that may have come before is sent with that said, and such an agent takes none of it: frames are lost then, and
none is doubled.

The first frames travel with the notice of the stop, which is quick and not answered, and count as sent when they have
been sent once more in a batch.

An agent of before knows no numbers (`tells_numbers` stays False): nothing is sent to it twice, and what it did not
answer counts as lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from bascule.agent.peers import NoAnswerError
from bascule.errors import BasculeError
from bascule.network.handover.parcel import Parcel, pack

BATCH_FRAMES = 500
BATCH_BYTES = 1 << 20  # as much arrives in time on a slow network too
FIRST_BATCH_BYTES = 24_000  # with the notice, which must not wait for more
MOST_WAITING = 4000  # the taps' own watches keep as many again
MOST_WAITING_BYTES = 16 << 20
AGAIN_S = 0.1

# A batch, and whether some of it may have come before, and whether it is the last; returns what became of all so far.
Hand = Callable[[bytes, bool, bool], Awaitable[Mapping[str, int]]]


class FrameSender:
    """What one VM's frames are sent by. Only one `send` at a time has a batch under way."""

    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        self.tells_numbers = False
        self._waiting: list[Parcel] = []
        self._waiting_bytes = 0
        self._tried = 0  # so many of those that wait were sent before, and not answered
        self._sending = asyncio.Lock()
        self.sent = 0
        self.refused = 0
        self.there: dict[str, int] = {}  # what became of them there, as was answered last
        self.why: set[str] = set()

    @property
    def has_room(self) -> bool:
        """Whether more may be added; a burst may exceed it once."""
        return len(self._waiting) < MOST_WAITING and self._waiting_bytes < MOST_WAITING_BYTES

    @property
    def waiting(self) -> int:
        """How many are not known to have come."""
        return len(self._waiting)

    def add(self, parcels: Sequence[Parcel]) -> None:
        """Send these after the others."""
        self._waiting += parcels
        self._waiting_bytes += sum(len(parcel.frame) for parcel in parcels)

    def first_batch(self) -> bytes:
        """As many as go with the notice of the stop, in a batch. They are sent again."""
        first = self._waiting[: self._fit(FIRST_BATCH_BYTES)]
        if self.tells_numbers:
            self._tried = len(first)
        else:
            self._done(len(first))
            self.sent += len(first)
        return pack(first)

    def _fit(self, most_bytes: int) -> int:
        """How many of those that wait have so many bytes."""
        length = 0
        for count, parcel in enumerate(self._waiting):
            length += len(parcel.frame)
            if length > most_bytes:
                return count
        return len(self._waiting)

    def _next(self) -> list[Parcel]:
        """The next batch: only such as were sent before, or only such as were not; one frame may be of any size."""
        most = min(self._tried or BATCH_FRAMES, BATCH_FRAMES)
        return self._waiting[: min(most, max(1, self._fit(BATCH_BYTES)))]

    def _done(self, count: int) -> None:
        self._waiting_bytes -= sum(len(parcel.frame) for parcel in self._waiting[:count])
        del self._waiting[:count]
        self._tried = max(0, self._tried - count)

    async def send(self, *, final: bool = False) -> bool:
        """Send all that waits. Return whether that was possible, else it waits on. `final`: say that it was all."""
        async with self._sending:
            while self._waiting or final:
                batch = self._next()
                again, last = self._tried > 0, final and len(batch) == len(self._waiting)
                self._tried = max(self._tried, len(batch))
                try:
                    self.there = dict(await self._hand(pack(batch), again, last))
                except NoAnswerError as error:
                    self.why.add(str(error))
                    if not self.tells_numbers:
                        self.refused += len(batch)
                        self._done(len(batch))
                    return False
                except BasculeError as error:
                    self.why.add(str(error))
                    self.refused += len(batch)
                else:
                    self.sent += len(batch)
                self._done(len(batch))
                if last:
                    break
        return True

    async def finish(self, within_s: float, more: Callable[[], Sequence[Parcel]] = tuple) -> bool:
        """Send the rest, and what there is `more`, again and again if need be. Return whether all was answered in time.

        Nothing may be added afterwards.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while True:
                    sent = await self.send()
                    if sent and (rest := more()):
                        self.add(rest)
                    elif sent and await self.send(final=True):
                        return True
                    else:
                        await asyncio.sleep(AGAIN_S)
        return False
