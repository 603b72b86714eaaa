"""Which frames the guest of a VM that stays has not got, though it got later ones. Pure.

QEMU may take a frame out of the tap while the VM stands still and never give it to the guest. All others are given in
order. So of the frames in a row that fill a buffer of the guest's receive queue, each lies as many buffers earlier as
were left out before it: its lag.

    frame     7    8    9   10   11
    place     1    -    2    3    -      8 is not shown or was left out; 11 was not given yet or is not shown
    lag       0         1    1           so one was left out, between 7 and 9

The lag of a frame is known while the queue shows it (`qemu.receive_ring`): for some dozen frames, until the guest puts
its buffer in again. The largest lag tells how many were left out at least. At most it is as many as have come, less
those that the guest has got; but a frame on its way to it counts there as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from bascule.network.handover.reckoning import USED_MODULUS

MOST_SWALLOWED = 2


def left_out(lags: Sequence[int | None], missing: int) -> list[int] | None:
    """The positions of the `missing` frames in a row of frames with these lags. None: it cannot be told.

    Raises `ValueError` if the lags contradict themselves or `missing`.
    """
    known = [(-1, 0), *((at, lag) for at, lag in enumerate(lags) if lag is not None), (len(lags), missing)]
    found: list[int] = []
    is_certain = True
    for (before, lag_before), (at, lag) in pairwise(known):
        between = range(before + 1, at)
        if not 0 <= lag - lag_before <= len(between):
            raise ValueError(f"a lag of {lag} after one of {lag_before}, with {len(between)} frames between")
        if lag - lag_before == len(between):
            found += between
        elif lag != lag_before:
            is_certain = False
    return found if is_certain else None


class LeftOut:
    """What is known of one queue since the guest had got all frames before number `first`, and none from there on."""

    def __init__(self, first: int, used: int, *, at_stop: bool = True, is_certain: bool = True) -> None:
        """`used`: the used index of the guest's queue then. `is_certain`: not so where only counts say it.

        `at_stop`: whether the guest has got `first` and those after it only since the VM runs again. Then it is the
        first ones that are left out: they were read by QEMU as the VM stood still, in their order, and the others
        after that, whoever gives them to the guest.
        """
        self.first = first
        self._used = used
        self._is_certain = is_certain
        self._at_stop = at_stop
        self._places: dict[int, int] = {}  # by a frame's number, how many buffers had been filled with it
        self._contradicts = False
        self._most: int | None = None

    def _got(self, used: int) -> int:
        """How many buffers have been filled since, when the used index is `used`."""
        return (used - self._used) % USED_MODULUS

    def shows(self, places: Iterable[tuple[int, int]]) -> None:
        """The queue shows these frames: their numbers, and the used index when each had been filled in."""
        for number, used in places:
            place = self._got(used)
            was_before = not 0 < place <= USED_MODULUS // 2  # and it may be like one that came since
            if number < self.first or was_before:
                continue
            if self._places.setdefault(number, place) != place:
                self._contradicts = True

    def nothing_waits(self, filling: int, used: int) -> None:
        """Nothing waits for the guest; `filling` frames had come that fill a buffer, after the index was `used`."""
        if (got := self._got(used)) <= filling:
            self._most = filling - got if self._most is None else min(self._most, filling - got)

    def told(self, filling: Sequence[int]) -> list[int] | None:
        """The numbers of those left out, of all that have come and fill a buffer. None: it is not known yet.

        Raises `ValueError` if it cannot be told.
        """
        lags = [at - self._places[number] if number in self._places else None for at, number in enumerate(filling, 1)]
        known = [lag for lag in lags if lag is not None]
        least = max(known, default=0)
        if self._contradicts or min(known, default=0) < 0 or (self._most is not None and least > self._most):
            raise ValueError("the places of the frames and their number contradict each other")
        if self._most is None or least < self._most:
            return None
        if not self._is_certain:
            raise ValueError("only counts say what the guest had got")
        if least > MOST_SWALLOWED:
            raise ValueError(f"{least} seem to be left out")
        if (found := left_out(lags, least)) is None:
            if not self._at_stop or any(lag != least for lag in known):
                raise ValueError(f"{least} are left out, and the queue does not show any more which")
            found = list(range(least))
        return [filling[at] for at in found]
