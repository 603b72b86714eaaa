"""Running figures of a probe that is still going on, added up from windows side by side: no sample is read twice."""

from __future__ import annotations

from dataclasses import dataclass

from bascule.network.outage import ANSWER_TIMEOUT_S, NS_PER_MS, NS_PER_S, outage_between
from bascule.network.probe_samples import Samples


@dataclass
class Totals:
    """The figures until `until_ns`: the answer time-out behind the recording, where they are final.

    `rtt_median_ms` is of the newest window, `silent_ms` how long nothing has arrived when the recording was read.
    """

    begun_ns: int = 0
    until_ns: int = 0
    sent: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    longest_silence_ms: float = 0.0
    rtt_median_ms: float | None = None
    silent_ms: float = 0.0

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
        window = outage_between(samples, start_ns, end_ns)
        self.until_ns = end_ns
        self.sent += window.sent
        self.lost += window.lost
        self.duplicated += window.duplicated
        self.reordered += window.reordered
        self.longest_silence_ms = max(self.longest_silence_ms, window.longest_silence_ms or 0.0)
        self.rtt_median_ms = window.rtt_median_ms
