from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from bascule.network.probe.columns import Columns, columns_of
from bascule.network.probe.samples import PauseCause, Samples, StreamInfo

MS = 1_000_000
S = 1000 * MS


def recording(count: int, lost: range = range(0)) -> Samples:
    """100 Hz from 1 s on, answered after 1 ms; recorded until just after the last probe."""
    sent = [S + number * 10 * MS for number in range(count)]
    answered = [number for number in range(count) if number not in lost]
    return Samples(
        StreamInfo("udp", "10.77.0.50:7", 100.0),
        sent_at_ns=array("q", sent),
        answer_sequence=array("I", answered),
        answer_at_ns=array("q", [sent[number] + MS for number in answered]),
        recorded_until_ns=sent[-1] + 2 * MS,
    )


def test_what_is_not_answered_waits_until_it_is_lost() -> None:
    columns = Columns(0.1, 1000)
    columns.update(recording(300, lost=range(100, 120)))
    newest = columns.newest
    assert [(one.sent, one.lost, one.waiting) for one in newest[9:13]] == [
        (10, 0, 0),
        (10, 10, 0),
        (10, 10, 0),
        (10, 0, 0),
    ]
    young = Columns(0.1, 1000)
    young.update(recording(150, lost=range(140, 150)))
    assert [(one.lost, one.waiting) for one in young.newest[-2:]] == [(0, 0), (0, 10)]
    assert young.newest[-1].high_ms is None


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_growing_by_steps_or_all_at_once_is_the_same(steps: list[int]) -> None:
    grown, count = Columns(0.05, 10_000), 0
    for step in steps:
        count += step
        grown.update(recording(count, lost=range(30, 60)))
    at_once = Columns(0.05, 10_000)
    at_once.update(recording(count, lost=range(30, 60)))
    assert grown.newest == at_once.newest
    assert sum(one.sent for one in grown.newest) == count


def test_only_the_newest_are_kept() -> None:
    columns = Columns(0.1, 5)
    columns.update(recording(500))
    assert len(columns.newest) == 5
    assert columns.newest[-1].start_s == 4.9


def test_own_gaps_are_put_where_they_were() -> None:
    samples = recording(100)
    for column, value in ((samples.pause_begin_ns, S + 250 * MS), (samples.pause_end_ns, S + 330 * MS)):
        column.append(value)
    samples.pause_cause.append(PauseCause.LATE)
    columns = Columns(0.1, 100)
    columns.update(samples)
    assert [round(one.own_ms) for one in columns.newest[:5]] == [0, 0, 50, 30, 0]


def test_finished_round_trips_in_as_many_stretches_as_wished() -> None:
    trips = [(number / 8, None if number == 5 else float(number)) for number in range(8)]
    found = columns_of(trips, [(0.375, 0.75)], start_s=0.0, end_s=1.0, count=4)
    assert [(one.sent, one.lost, one.low_ms, one.high_ms) for one in found] == [
        (2, 0, 0.0, 1.0),
        (2, 0, 2.0, 3.0),
        (2, 1, 4.0, 4.0),
        (2, 0, 6.0, 7.0),
    ]
    assert [round(one.own_ms) for one in found] == [0, 125, 250, 0]
