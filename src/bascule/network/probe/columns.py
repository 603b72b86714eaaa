"""A recording in equal stretches of time, for a picture that grows while the probe asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bascule.network.outage import ANSWER_TIMEOUT_S, NS_PER_MS, NS_PER_S, match_answers
from bascule.network.probe.samples import Samples

_TIMEOUT_NS = round(ANSWER_TIMEOUT_S * NS_PER_S)


@dataclass(frozen=True, slots=True)
class Column:
    """What became of the probes sent in one stretch of time, from `start_s` on.

    `waiting` have no answer yet, and are not lost yet. `low_ms` and `high_ms` are the shortest and the longest round
    trip, None without an answer. `own_ms` is how long this machine kept the probe from its work.
    """

    start_s: float
    sent: int
    lost: int
    waiting: int
    low_ms: float | None
    high_ms: float | None
    own_ms: float


class Columns:
    """The newest `keep` stretches of a recording that grows, each of `length_s`. The first begins with the first probe.

    A stretch is final when the answer time-out after it is recorded; only those that are not yet are counted again.
    """

    def __init__(self, length_s: float, keep: int) -> None:
        self._length_ns = round(length_s * NS_PER_S)
        self._final: deque[Column] = deque(maxlen=keep)
        self._provisional: list[Column] = []
        self._next_ns = 0

    @property
    def newest(self) -> list[Column]:
        """The stretches, oldest first; the last ones may change."""
        return [*self._final, *self._provisional][-(self._final.maxlen or 0) :]

    def update(self, samples: Samples) -> None:
        """Take in what has been recorded since the last time. Times count from the first probe."""
        if not samples.sent_at_ns:
            return
        origin_ns = samples.sent_at_ns[0]
        self._next_ns = self._next_ns or origin_ns
        until_ns = samples.recorded_until_ns
        end_ns = min(until_ns, samples.stopped_at_ns or until_ns)
        asked = samples.sent_in(self._next_ns, end_ns)
        first_ns, _, _ = match_answers(samples, asked, until_ns)
        self._provisional.clear()
        start_ns = self._next_ns
        while start_ns < end_ns:
            stop_ns = start_ns + self._length_ns
            here = samples.sent_in(start_ns, min(stop_ns, end_ns))
            part = first_ns[here.start - asked.start : here.stop - asked.start]
            column = _column(samples, here, part, stretch=(start_ns, stop_ns), origin_ns=origin_ns)
            if until_ns >= stop_ns + _TIMEOUT_NS:
                self._final.append(column)
                self._next_ns = stop_ns
            else:
                self._provisional.append(column)
            start_ns = stop_ns


def _column(
    samples: Samples, here: range, first_ns: Sequence[int], *, stretch: tuple[int, int], origin_ns: int
) -> Column:
    trips: list[float] = []
    waiting = 0
    for sequence, at_ns in zip(here, first_ns, strict=True):
        sent_ns = samples.sent_at_ns[sequence]
        if at_ns:
            trips.append((at_ns - sent_ns) / NS_PER_MS)
        elif samples.recorded_until_ns < sent_ns + _TIMEOUT_NS:
            waiting += 1
    gaps = samples.own_gaps(*stretch)
    return Column(
        start_s=(stretch[0] - origin_ns) / NS_PER_S,
        sent=len(here),
        lost=len(here) - len(trips) - waiting,
        waiting=waiting,
        low_ms=min(trips, default=None),
        high_ms=max(trips, default=None),
        own_ms=sum(end - begin for begin, end in gaps) / NS_PER_MS,
    )


def columns_of(
    trips: Iterable[tuple[float, float | None]],
    own_gaps: Iterable[tuple[float, float]],
    *,
    start_s: float,
    end_s: float,
    count: int,
) -> list[Column]:
    """Put finished round trips, (when sent in s, ms or None when lost), into `count` stretches from start to end.

    `own_gaps` are the probe's own, (begin, end) in s.
    """
    length_s = (end_s - start_s) / count
    parts: list[list[float | None]] = [[] for _ in range(count)]
    own_ms = [0.0] * count

    def place(at_s: float) -> int:
        return min(count - 1, max(0, int((at_s - start_s) / length_s)))

    for at_s, trip_ms in trips:
        if start_s <= at_s <= end_s:
            parts[place(at_s)].append(trip_ms)
    for begin_s, stop_s in own_gaps:
        for number in range(place(begin_s), place(stop_s) + 1):
            here_s = start_s + number * length_s
            own_ms[number] += 1e3 * max(0.0, min(stop_s, here_s + length_s) - max(begin_s, here_s))
    return [_finished(start_s + number * length_s, part, own_ms[number]) for number, part in enumerate(parts)]


def _finished(start_s: float, trips: Sequence[float | None], own_ms: float) -> Column:
    answered = [trip for trip in trips if trip is not None]
    return Column(
        start_s=start_s,
        sent=len(trips),
        lost=len(trips) - len(answered),
        waiting=0,
        low_ms=min(answered, default=None),
        high_ms=max(answered, default=None),
        own_ms=own_ms,
    )
