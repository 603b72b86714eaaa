"""How far apart two hosts' wall clocks are, and how sure that is.

One exchange gives four readings, as in NTP: sent and got back by this host's clock, received and answered by the
other's. The other clock is ahead by ((received - sent) + (answered - got_back)) / 2, wrong by at most half the time
that the exchange spent on the way. Of several exchanges the quickest is the surest.
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


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """The other host's clock is `ahead_us` ahead of this one's, give or take `error_us`."""

    ahead_us: float
    error_us: float


def best_of(exchanges: Iterable[Exchange]) -> ClockOffset:
    """Estimate from the quickest exchange."""
    best = min(exchanges, key=lambda exchange: exchange.on_the_way_us)
    ahead_us = ((best.received_us - best.sent_us) + (best.answered_us - best.got_back_us)) / 2
    return ClockOffset(ahead_us, best.on_the_way_us / 2)


def wall_us() -> int:
    """Read this host's wall clock, in microseconds since the epoch, as QEMU's event timestamps do."""
    return time.time_ns() // 1000
