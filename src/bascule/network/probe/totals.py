"""Running figures of a probe that is still going on, added up from windows side by side: no sample is read twice."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from bascule.network.outage import ANSWER_TIMEOUT_S, NS_PER_MS, NS_PER_S, outage_between
from bascule.network.probe.samples import Samples

_EVERY_SAMPLE = 1 << 30
_STEPS_PER_FOLD = 50  # round trips are counted in steps of 2 %
_LEAST_MS = 1e-4


@dataclass
class Totals:
    """The figures until `until_ns`: the answer time-out behind the recording, where they are final.

    `rtt_median_ms` is of the newest window, `silent_ms` how long nothing has arrived when the recording was read.
    Times `_s` count from the first probe.
    """

    begun_ns: int = 0
    until_ns: int = 0
    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    longest_silence_ms: float = 0.0
    silence_start_s: float = 0.0
    rtt_median_ms: float | None = None
    rtt_max_ms: float | None = None
    silent_ms: float = 0.0
    own_gaps: int = 0
    own_gap_total_ms: float = 0.0
    own_gap_longest_ms: float = 0.0
    own_gap_longest_start_s: float = 0.0
    _trips: Counter[int] = field(default_factory=Counter)

    @property
    def duration_s(self) -> float:
        """How much time they stand for."""
        return (self.until_ns - self.begun_ns) / NS_PER_S if self.until_ns else 0.0

    def add(self, samples: Samples) -> None:
        """Account for what has become final since the last time (`samples` is the same recording, grown)."""
        if not samples.sent_at_ns:
            return
        self.begun_ns = self.begun_ns or samples.sent_at_ns[0]
        start_ns = self.until_ns or self.begun_ns
        end_ns = samples.recorded_until_ns - round(ANSWER_TIMEOUT_S * NS_PER_S)
        last_ns = samples.answer_at_ns[-1] if samples.answer_at_ns else self.begun_ns
        self.silent_ms = (samples.recorded_until_ns - last_ns) / NS_PER_MS
        if end_ns <= start_ns:
            return
        window = outage_between(samples, start_ns, end_ns, origin_ns=self.begun_ns, max_samples=_EVERY_SAMPLE)
        self.until_ns = end_ns
        self.sent += window.sent
        self.lost += window.lost
        self.duplicated += window.duplicated
        self.reordered += window.reordered
        if window.longest_silence_ms is not None and window.longest_silence_ms > self.longest_silence_ms:
            self.longest_silence_ms = window.longest_silence_ms
            self.silence_start_s = window.silence_start_s or 0.0
        self.rtt_median_ms = window.rtt_median_ms
        if window.rtt_max_ms is not None:
            self.rtt_max_ms = max(self.rtt_max_ms or 0.0, window.rtt_max_ms)
        self._trips.update(
            round(math.log(max(trip, _LEAST_MS)) * _STEPS_PER_FOLD) for _, trip in window.samples if trip is not None
        )
        self._add_gaps(samples, start_ns, end_ns)

    def percentile_ms(self, share: float) -> float | None:
        """The round trip that this share of the answers is not above, to 1 %; None without an answer."""
        left = math.ceil(share * self._trips.total())
        for step in sorted(self._trips):
            left -= self._trips[step]
            if left <= 0:
                return min(math.exp(step / _STEPS_PER_FOLD), self.rtt_max_ms or math.inf)
        return None

    def _add_gaps(self, samples: Samples, start_ns: int, end_ns: int) -> None:
        """Count each gap in the window in which it begins, and in full."""
        for begin, end in samples.own_gaps(start_ns - 1, samples.recorded_until_ns):
            if not start_ns <= begin < end_ns:  # what began before is cut to the nanosecond before
                continue
            length_ms = (end - begin) / NS_PER_MS
            self.own_gaps += 1
            self.own_gap_total_ms += length_ms
            if length_ms > self.own_gap_longest_ms:
                self.own_gap_longest_ms = length_ms
                self.own_gap_longest_start_s = (begin - self.begun_ns) / NS_PER_S
