"""When the next probe is due: a grid of absolute times, so that small delays do not add up."""

from __future__ import annotations

NS_PER_S = 1_000_000_000


class Pacer:
    """A grid of moments `hz` a second from `first_ns` on. Times in ns of CLOCK_MONOTONIC.

    Moments that are over when the probe gets to them are skipped, not made up for: a burst would ask the network
    another question, and hide that for a while nothing was asked.
    """

    def __init__(self, hz: float, first_ns: int) -> None:
        self._hz = hz
        self._first_ns = first_ns
        self._moment = 0
        self.due_ns = first_ns

    @property
    def period_ns(self) -> int:
        """The time between two moments."""
        return round(NS_PER_S / self._hz)

    def advance(self, now_ns: int) -> int:
        """Go on to the first moment after `now_ns`; return how many moments were skipped between.

        The moment that was due is not among the skipped: the caller uses it now, however late it is.
        """
        estimate = int((now_ns - self._first_ns) * self._hz / NS_PER_S)
        following = max(estimate - 1, self._moment) + 1  # one less: floating point may round it up
        while self._at(following) <= now_ns:
            following += 1
        skipped = following - self._moment - 1
        self._moment = following
        self.due_ns = self._at(following)
        return skipped

    def _at(self, moment: int) -> int:
        return self._first_ns + round(moment * NS_PER_S / self._hz)
