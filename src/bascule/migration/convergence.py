"""When to switch over: steering of pre-copy at the boundaries of its rounds.

At a boundary V bytes remain, all that was dirtied during the round before. The next round would take o + V / B seconds
at B bytes a second, o being what a round costs whatever it sends (counting dirty pages, above all), and leave
d(o + V / B), where d(t) is the curve of unique bytes dirtied in t seconds, known at the points that the rounds so far
have measured. The blackout, if the VM stopped now, is forecast as

    fixed + V / B          (B without any cap: QEMU lifts max-bandwidth for stop-and-copy)

`fixed` being what a switchover of nothing costs on these hosts. The rule:

- never before the first round ends: what has never been sent would be sent in the blackout;
- never while the forecast exceeds the user's bound: the bound is a promise, not a target;
- when it fits, one more round is sent only if it shortens the blackout noticeably; past the fixed point
  d(o + V / B) = V more rounds are waste.

QEMU itself performs the switch: it completes when what remains is less than (its own bandwidth estimate) x
(downtime limit). The limit therefore stays at `LOW_LIMIT_MS` until a boundary says so, and is then set to cover what
the next count of dirty pages may find, but never to more than the promise allows. At 1 ms QEMU may complete by itself
when nearly nothing is dirty; that is within any promise that can be kept. (A limit of 0 would not be safer: QEMU 7.2
then does not count dirty pages again before it stops the VM, and the blackout has no bound.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import floor

LOW_LIMIT_MS = 1
NOTICEABLE_SHARE = 0.10  # of the forecast blackout
NOTICEABLE_MS = 2.0
HEADROOM = 2.0  # the next count of dirty pages may find this many times what the curve says
TRUSTED_SAMPLE_BYTES = 4 << 20  # a shorter round measures QEMU's start-up rather than the link


@dataclass(frozen=True, slots=True)
class Round:
    """One finished pass of pre-copy. `remaining_bytes` is what was dirtied while it ran."""

    number: int
    start_s: float
    duration_s: float
    sent_bytes: int
    remaining_bytes: int

    @property
    def rate_bytes_per_s(self) -> float:
        """Average bytes a second on the wire."""
        return self.sent_bytes / self.duration_s if self.duration_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What the steering needs of a `CopyProgress`, with its time in seconds on the source's monotonic clock."""

    at_s: float
    remaining_bytes: int
    transferred_bytes: int
    bandwidth_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do at a boundary. `limit_ms` is meant for QEMU; `forecast_ms` is the blackout if the VM stops now."""

    switch: bool
    limit_ms: int
    forecast_ms: float
    fits: bool


@dataclass(frozen=True, slots=True)
class Steering:
    """All that is known of a copy at the end of its last round."""

    max_blackout_ms: float
    fixed_ms: float
    rounds: tuple[Round, ...] = ()
    last: Reading | None = None

    def begun(self, reading: Reading) -> Steering:
        """Note the start of the first round."""
        return replace(self, last=reading)

    def round_ended(self, reading: Reading) -> Steering:
        """Note the end of a round."""
        if self.last is None:
            return self.begun(reading)
        ended = Round(
            number=len(self.rounds) + 1,
            start_s=self.last.at_s,
            duration_s=reading.at_s - self.last.at_s,
            sent_bytes=reading.transferred_bytes - self.last.transferred_bytes,
            remaining_bytes=reading.remaining_bytes,
        )
        return replace(self, rounds=(*self.rounds, ended), last=reading)

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Bytes a second at the switchover: the best of the rounds long enough to tell, or QEMU's own estimate.

        The first round also faults in the destination's memory and skips zero pages; later rounds are nearer to what
        the stop-and-copy will see.
        """
        trusted = [r.rate_bytes_per_s for r in self.rounds if r.sent_bytes >= TRUSTED_SAMPLE_BYTES]
        if trusted:
            return max(trusted)
        if self.last is not None and self.last.bandwidth_bytes_per_s > 0:
            return self.last.bandwidth_bytes_per_s
        return max((r.rate_bytes_per_s for r in self.rounds), default=0.0)

    @property
    def round_overhead_s(self) -> float:
        """What a round costs whatever it sends: the least that any round but the first took beyond its sending."""
        bandwidth = self.bandwidth_bytes_per_s
        if bandwidth <= 0:
            return 0.0
        return min((max(0.0, r.duration_s - r.sent_bytes / bandwidth) for r in self.rounds[1:]), default=0.0)

    def dirtied_in(self, duration_s: float) -> float:
        """d(t): unique bytes dirtied in `duration_s`, interpolated through the rounds' points and the origin.

        Left of the shortest round the line to the origin, right of the longest its value: the curve is concave and
        saturates at the writable working set.
        """
        points = sorted(
            {(0.0, 0.0), *((r.duration_s, float(r.remaining_bytes)) for r in self.rounds if r.duration_s > 0)}
        )
        if duration_s >= points[-1][0]:
            return max(bytes_ for _, bytes_ in points[-3:])
        for (t0, v0), (t1, v1) in pairwise(points):
            if t0 <= duration_s < t1:
                return v0 + (v1 - v0) * (duration_s - t0) / (t1 - t0)
        return points[-1][1]

    def blackout_ms(self, remaining_bytes: float) -> float:
        """Forecast the blackout if the VM stopped with this much left to send."""
        bandwidth = self.bandwidth_bytes_per_s
        if bandwidth <= 0:
            return float("inf") if remaining_bytes else self.fixed_ms
        return self.fixed_ms + 1000.0 * remaining_bytes / bandwidth

    def advise(self) -> Advice:
        """Decide at the boundary that `round_ended` has just noted."""
        if self.last is None or not self.rounds:
            return Advice(switch=False, limit_ms=LOW_LIMIT_MS, forecast_ms=float("inf"), fits=False)
        remaining = self.last.remaining_bytes
        bandwidth = self.bandwidth_bytes_per_s
        now_ms = self.blackout_ms(remaining)
        fits = now_ms <= self.max_blackout_ms
        if not fits or bandwidth <= 0:
            return Advice(switch=False, limit_ms=LOW_LIMIT_MS, forecast_ms=now_ms, fits=fits)
        expected_next = self.dirtied_in(self.round_overhead_s + remaining / bandwidth)
        gain_ms = now_ms - self.blackout_ms(expected_next)
        if gain_ms > max(NOTICEABLE_MS, NOTICEABLE_SHARE * now_ms):
            return Advice(switch=False, limit_ms=LOW_LIMIT_MS, forecast_ms=now_ms, fits=True)
        limit_ms = self._limit_ms(max(remaining, expected_next), self.last.bandwidth_bytes_per_s or bandwidth)
        return Advice(switch=True, limit_ms=limit_ms, forecast_ms=now_ms, fits=True)

    def _limit_ms(self, bytes_to_cover: float, qemu_bandwidth_bytes_per_s: float) -> int:
        """Translate bytes into QEMU's terms: it multiplies the limit with its own bandwidth estimate."""
        promised_bytes = self.bandwidth_bytes_per_s * (self.max_blackout_ms - self.fixed_ms) / 1000.0
        covered = min(HEADROOM * bytes_to_cover, promised_bytes)
        return max(LOW_LIMIT_MS, floor(1000.0 * covered / qemu_bandwidth_bytes_per_s))

    def why_not(self) -> str:
        """Say in one sentence why the copy does not fit the promise: dirtied against sent."""
        if not self.rounds:
            return "the first round, which sends all memory, had not ended"
        last = self.rounds[-1]
        mib = 1 << 20
        return (
            f"the guest dirtied {last.remaining_bytes / mib:.1f} MiB during a round that sent "
            f"{last.sent_bytes / mib:.1f} MiB in {last.duration_s:.2f} s, so that stopping it would take about "
            f"{self.blackout_ms(last.remaining_bytes):.0f} ms where {self.max_blackout_ms:g} ms were promised"
        )
