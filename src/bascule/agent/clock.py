"""How far apart two hosts' wall clocks are, and how sure that is.

One exchange gives four readings, as in NTP: sent and got back by this host's clock, received and answered by the
other's. The other clock is ahead by ((received - sent) + (answered - got_back)) / 2, wrong by at most half the time
that the exchange spent on the way. Of several exchanges the quickest is the surest.

Clocks drift apart, and a copy may take long: between an estimate before and one after, the offset at a moment is taken
to lie on the line that joins them. What no drift explains was a clock being set meanwhile, and is added to the error.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer: four readings in microseconds, the middle two by the other host's clock."""

    sent_us: int
    received_us: int
    answered_us: int
    got_back_us: int

    @property
    def on_the_way_us(self) -> int:
        """Time that was spent on the network, there and back."""
        return max(0, (self.got_back_us - self.sent_us) - (self.answered_us - self.received_us))


DRIFT = 500e-6  # the most that Linux lets a clock be slewed; what nothing keeps right is slower


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """The other host's clock is `ahead_us` ahead of this one's, give or take `error_us`.

    `at_us` is when that was found, by this host's clock; an estimate without it holds at any time.
    """

    ahead_us: float
    error_us: float
    at_us: float | None = None

    def later(self, at_us: float) -> ClockOffset:
        """What is known at another moment, from this estimate alone: the same, less surely."""
        if self.at_us is None:
            return self
        return ClockOffset(self.ahead_us, self.error_us + DRIFT * abs(at_us - self.at_us), at_us)


def between(before: ClockOffset, after: ClockOffset, at_us: float) -> ClockOffset:
    """What is known at `at_us`, from an estimate before and one after it."""
    if before.at_us is None or after.at_us is None or not before.at_us <= at_us <= after.at_us:
        return min(before.later(at_us), after.later(at_us), key=lambda offset: offset.error_us)
    passed_us = after.at_us - before.at_us
    share = (at_us - before.at_us) / passed_us if passed_us else 1.0
    ahead_us = before.ahead_us + share * (after.ahead_us - before.ahead_us)
    apart_us = abs(after.ahead_us - before.ahead_us)
    step_us = max(0.0, apart_us - DRIFT * passed_us - before.error_us - after.error_us)
    return ClockOffset(ahead_us, max(before.error_us, after.error_us) + step_us, at_us)


def best_of(exchanges: Iterable[Exchange]) -> ClockOffset:
    """Estimate from the quickest exchange."""
    best = min(exchanges, key=lambda exchange: exchange.on_the_way_us)
    ahead_us = ((best.received_us - best.sent_us) + (best.answered_us - best.got_back_us)) / 2
    return ClockOffset(ahead_us, best.on_the_way_us / 2, (best.sent_us + best.got_back_us) / 2)


def wall_us() -> int:
    """Read this host's wall clock, in microseconds since the epoch, as QEMU's event timestamps do."""
    return time.time_ns() // 1000
