"""What a client saw in a window of time: accounting over the samples of one probe stream.

Every figure is computed from one clock, the probe's own CLOCK_MONOTONIC. The window is half open, [start, end), so
that the counts of windows side by side add up. For the probes *sent in the window*:

sent        all of them, also those that the client's own kernel refused (the client did try)
lost        no answer until the end of the window and the answer time-out after it
duplicated  answers beyond the first, each copy counted
reordered   answers that arrived after the answer to a probe sent later (the singleton of RFC 4737 section 3.3: its
            sequence number is smaller than the next expected one). First copies only; the answer that overtook is not
            counted, each one that was overtaken is
rtt         first answer's arrival minus the sending, over the answered ones: percentiles by nearest rank
own_gap     a time in which this machine kept the probe from asking on time, or put it aside while it sent

Duplicates and reordering are seen where answers carry numbers (ICMP, UDP); what others see, their modules say.

longest silence: the longest time between two consecutive answers' arrivals in which at least one probe was outstanding:
sent, not answered yet, and not longer ago than the answer time-out. Any answer ends a silence, a duplicate too.
The silences that *overlap* the window count, each in full: cut at the window's edge, a silence would look shorter than
it was. One that nothing ended goes on until the answer time-out after the window, or until the probe stopped asking.
One before the first answer begins with the first probe. No silence is shorter than the time between two probes: at
1 kHz, 1 ms is none. Of a bulk stream any byte ends a silence, and the longest one is its *stall*.

What the probe did itself is subtracted from no one: when it did not send in time, a silence may be longer than the
network's, and nobody can know by how much. The `note` says when that was so, and how much of the longest silence it
touches.
"""

from __future__ import annotations

import math
import statistics
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from bascule.network.probe.note import note_of
from bascule.network.probe.samples import NUMBERED, Samples
from bascule.network.probe.throughput import Throughput, throughput_between

ANSWER_TIMEOUT_S = 1.0
MAX_SAMPLES = 10_000  # of one report: ten seconds at 1 kHz in full
IN_FULL_NS = 100_000_000  # before and after the longest silence, which a report looks at closely
NS_PER_MS = 1e6
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Outage:
    """The outage record of a report. Times are relative to the origin given (a move's start), None means not known.

    `samples` are (when it was sent in s, its round trip in ms or None when it was lost). Of very many, those around the
    longest silence stay, and of each stretch of the others its shortest and longest round trip and one that was lost.
    `duration_s` is the window's length; `sent` divided by it is the rate that was reached, `probe_hz` the rate that was
    asked for; for a bulk stream, whose probes are pieces of any size, it is how often the probe looked at itself.
    """

    probe: str
    target: str
    probe_hz: float
    sent: int
    lost: int
    duplicated: int
    reordered: int
    longest_silence_ms: float | None
    rtt_median_ms: float | None
    rtt_p90_ms: float | None
    rtt_p99_ms: float | None
    rtt_p999_ms: float | None
    rtt_max_ms: float | None
    samples: tuple[tuple[float, float | None], ...]
    silence_start_s: float | None
    duration_s: float
    own_gaps: int
    own_gap_total_ms: float
    own_gap_longest_ms: float
    own_gap_longest_start_s: float | None
    note: str
    throughput: Throughput | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as it stands in a report's JSON."""
        return asdict(self) | {
            "samples": [list(sample) for sample in self.samples],
            "throughput": self.throughput.to_dict() if self.throughput else None,
        }


def outage_between(
    samples: Samples,
    start_ns: int,
    end_ns: int,
    *,
    answer_timeout_s: float = ANSWER_TIMEOUT_S,
    origin_ns: int | None = None,
    max_samples: int = MAX_SAMPLES,
) -> Outage:
    """Account for the window [start, end) of CLOCK_MONOTONIC.

    It is final when `samples.recorded_until_ns` has passed `end_ns` by the answer time-out; before that, probes that
    are still on their way count as lost, and the note says how many those may be. Times in the result are relative
    to `origin_ns` (default: `start_ns`).
    """
    origin_ns = start_ns if origin_ns is None else origin_ns
    timeout_ns = round(answer_timeout_s * NS_PER_S)
    asked = samples.sent_in(start_ns, end_ns)
    first_ns, duplicated, reordered = match_answers(samples, asked, end_ns + timeout_ns)
    sent_ns = samples.sent_at_ns[asked.start : asked.stop]
    trips = [(at - sent) / NS_PER_MS if at else None for sent, at in zip(sent_ns, first_ns, strict=True)]
    answered = sorted(trip for trip in trips if trip is not None)
    silence = longest_silence(samples, start_ns, end_ns, timeout_ns)
    gaps = samples.own_gaps(start_ns, end_ns)
    longest_gap = max(gaps, key=lambda gap: gap[1] - gap[0], default=None)
    return Outage(
        probe=samples.stream.name,
        target=samples.stream.target,
        probe_hz=samples.stream.hz,
        sent=len(asked),
        lost=len(trips) - len(answered),
        duplicated=duplicated,
        reordered=reordered,
        longest_silence_ms=round((silence[1] - silence[0]) / NS_PER_MS, 4) if silence else None,
        rtt_median_ms=round(statistics.median(answered), 4) if answered else None,
        rtt_p90_ms=_percentile(answered, 0.9),
        rtt_p99_ms=_percentile(answered, 0.99),
        rtt_p999_ms=_percentile(answered, 0.999),
        rtt_max_ms=round(answered[-1], 4) if answered else None,
        samples=_thinned(sent_ns, trips, silence, origin_ns, max_samples),
        silence_start_s=round((silence[0] - origin_ns) / NS_PER_S, 6) if silence else None,
        duration_s=round((end_ns - start_ns) / NS_PER_S, 6),
        own_gaps=len(gaps),
        own_gap_total_ms=round(sum(end - begin for begin, end in gaps) / NS_PER_MS, 4),
        own_gap_longest_ms=round((longest_gap[1] - longest_gap[0]) / NS_PER_MS, 4) if longest_gap else 0.0,
        own_gap_longest_start_s=round((longest_gap[0] - origin_ns) / NS_PER_S, 6) if longest_gap else None,
        note=note_of(
            samples,
            start_ns,
            end_ns,
            asked=asked,
            first_ns=first_ns,
            silence=silence,
            timeout_ns=timeout_ns,
            origin_ns=origin_ns,
        ),
        throughput=throughput_between(samples, start_ns, end_ns, origin_ns),
    )


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """The nearest rank: the smallest value that at least this share is not above."""
    return round(ordered[math.ceil(share * len(ordered)) - 1], 4) if ordered else None


def monotonic_ns_of(moment: datetime) -> int:
    """Convert a moment of this machine's wall clock to CLOCK_MONOTONIC: right unless the clock was set since then."""
    return round(moment.timestamp() * NS_PER_S) - (time.time_ns() - time.monotonic_ns())


def answers_around(samples: Samples, moment_ns: int) -> tuple[int | None, int | None]:
    """Give the arrivals of the last answer until `moment_ns` and of the first one after it, as far as there are any."""
    at = samples.heard_at_ns
    after = bisect_right(at, moment_ns)
    return at[after - 1] if after else None, at[after] if after < len(at) else None


def longest_silence(samples: Samples, start_ns: int, end_ns: int, timeout_ns: int) -> tuple[int, int] | None:
    """Return begin and end of the longest silence that overlaps [start, end); None when nothing was outstanding."""
    at = samples.heard_at_ns
    horizon = min(end_ns + timeout_ns, samples.recorded_until_ns)
    before, after = bisect_right(at, start_ns) - 1, bisect_left(at, end_ns)
    if before < 0 and not samples.sent_at_ns:
        return None
    if after < len(at) and at[after] <= horizon:
        closing = at[after]
    else:
        closing = horizon if samples.stopped_at_ns is None else min(horizon, samples.stopped_at_ns)
    opening = at[before] if before >= 0 else samples.sent_at_ns[0]
    edges = [opening, *at[before + 1 : after], closing]
    best: tuple[int, int] | None = None
    for begin, end in pairwise(edges):
        if end > start_ns and begin < end_ns and end - begin > (best[1] - best[0] if best else 0):
            best = (begin, end) if _was_outstanding(samples, begin, end, timeout_ns) else best
    return best


def _was_outstanding(samples: Samples, begin_ns: int, end_ns: int, timeout_ns: int) -> bool:
    """Tell whether any probe waited for its answer in [begin, end), in which no answer arrived."""
    sent = samples.sent_at_ns
    after = bisect_left(sent, begin_ns)
    if after < len(sent) and sent[after] < end_ns:
        return True
    # None was sent in it: was one sent before, and not answered by then? Its answer came after its sending.
    oldest = bisect_right(sent, begin_ns - timeout_ns)
    first, last = (
        bisect_left(samples.answer_at_ns, begin_ns - timeout_ns),
        bisect_right(samples.answer_at_ns, begin_ns),
    )
    answered = set(samples.answer_sequence[first:last])
    return any(sequence not in answered for sequence in range(oldest, after))


def match_answers(samples: Samples, asked: range, until_ns: int) -> tuple[array[int], int, int]:
    """Give the arrival of each asked probe's first answer (0: none), and count duplicated and reordered answers."""
    can_reorder = samples.stream.kind in NUMBERED
    first_ns = array("q", bytes(8 * len(asked)))
    duplicated = reordered = 0
    if not asked:
        return first_ns, 0, 0
    base, stop = asked.start, asked.stop
    begin = bisect_left(samples.answer_at_ns, samples.sent_at_ns[base])
    end = bisect_right(samples.answer_at_ns, until_ns)
    next_expected = base  # answers to older probes cannot have moved it further
    for sequence, at_ns in zip(samples.answer_sequence[begin:end], samples.answer_at_ns[begin:end], strict=True):
        if sequence < base:
            continue
        if sequence < stop:
            if first_ns[sequence - base]:
                duplicated += 1
                continue
            first_ns[sequence - base] = at_ns
            reordered += can_reorder and sequence < next_expected
        next_expected = max(next_expected, sequence + 1)
    return first_ns, duplicated, reordered


def _thinned(
    sent_ns: Sequence[int],
    trips: Sequence[float | None],
    silence: tuple[int, int] | None,
    origin_ns: int,
    max_samples: int,
) -> tuple[tuple[float, float | None], ...]:
    """Give (when sent in s from the origin, round trip in ms), no more than `max_samples` and a few."""
    kept: Iterable[int] = range(len(trips))
    if len(trips) > max_samples:
        whole = _around(sent_ns, silence, max_samples // 2)
        chosen = set(whole)
        left = (range(whole.start), range(whole.stop, len(trips)))
        for part in left:
            share = (max_samples - len(whole)) * len(part) // max(1, len(trips) - len(whole))
            chosen |= _telling(trips, part, max(1, share // 3))
        kept = sorted(chosen)
    return tuple(
        (round((sent_ns[index] - origin_ns) / NS_PER_S, 6), None if (trip := trips[index]) is None else round(trip, 4))
        for index in kept
    )


def _around(sent_ns: Sequence[int], silence: tuple[int, int] | None, most: int) -> range:
    """The probes sent in the longest silence and shortly before and after; none where they are more than `most`."""
    if silence is None:
        return range(0)
    found = range(bisect_left(sent_ns, silence[0] - IN_FULL_NS), bisect_left(sent_ns, silence[1] + IN_FULL_NS))
    return found if len(found) <= most else range(0)


def _telling(trips: Sequence[float | None], part: range, stretches: int) -> set[int]:
    """Of each of so many stretches of a part, the shortest and the longest round trip and one that was lost."""
    chosen: set[int] = set()
    for stretch in range(stretches):
        here = part[stretch * len(part) // stretches : (stretch + 1) * len(part) // stretches]
        answered = [(trip, index) for index in here if (trip := trips[index]) is not None]
        chosen |= {min(answered)[1], max(answered)[1]} if answered else set()
        chosen |= set([index for index in here if trips[index] is None][:1])
    return chosen
