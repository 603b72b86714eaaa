from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bascule.network.outage import Outage, longest_silence, outage_between
from bascule.network.probe.samples import Event, PauseCause, Samples, StreamInfo

MS = 1_000_000
S = 1000 * MS
TIMEOUT_S = 1.0

Answers = list[tuple[int, int]]


def samples(
    sent: list[int], answers: Answers, *, until: int | None = None, stopped: int | None = None, kind: str = "udp"
) -> Samples:
    """A recording: `answers` are (number, arrival) in the order of arrival."""
    last = max([*sent, *(at for _, at in answers), 0])
    return Samples(
        StreamInfo(kind, "10.77.0.50:7", 1000.0),
        sent_at_ns=array("q", sent),
        answer_sequence=array("I", [number for number, _ in answers]),
        answer_at_ns=array("q", [at for _, at in answers]),
        recorded_until_ns=last + 10 * S if until is None else until,
        stopped_at_ns=stopped,
    )


def steady(count: int, *, lost: range = range(0), rtt: int = MS // 4) -> Samples:
    """1 kHz from 1 s on, every answer after `rtt`, except those lost. It stopped after the last."""
    sent = [S + number * MS for number in range(count)]
    answers = [(number, at + rtt) for number, at in enumerate(sent) if number not in lost]
    return samples(sent, answers, stopped=sent[-1] + rtt)


def all_of(recording: Samples) -> Outage:
    return outage_between(recording, 0, recording.sent_at_ns[-1] + 1)


def test_a_quiet_second() -> None:
    seen = outage_between(steady(1000), S, 2 * S)
    assert (seen.sent, seen.lost, seen.duplicated, seen.reordered) == (1000, 0, 0, 0)
    assert (seen.rtt_median_ms, seen.rtt_p99_ms, seen.rtt_max_ms) == (0.25, 0.25, 0.25)
    assert seen.longest_silence_ms == 1.0
    assert seen.note == ""
    assert (seen.probe, seen.target, seen.probe_hz) == ("UDP echo", "10.77.0.50:7", 1000.0)


def test_lost_probes_make_a_silence() -> None:
    seen = outage_between(steady(1000, lost=range(300, 377)), S, 2 * S, origin_ns=S + 200 * MS)
    assert (seen.sent, seen.lost) == (1000, 77)
    assert seen.longest_silence_ms == 78.0
    assert seen.silence_start_s == pytest.approx(0.09925)
    assert [at for at, rtt in seen.samples if rtt is None] == [pytest.approx(0.1 + n / 1000) for n in range(77)]


def test_duplicated_counts_each_copy_and_reordered_each_one_overtaken() -> None:
    sent = [number * MS for number in range(1, 6)]
    arrivals = [(0, 10 * MS), (3, 11 * MS), (1, 12 * MS), (1, 13 * MS), (1, 14 * MS), (2, 15 * MS), (4, 16 * MS)]
    seen = all_of(samples(sent, arrivals))
    assert (seen.sent, seen.lost, seen.duplicated, seen.reordered) == (5, 0, 2, 2)


def test_a_late_copy_is_not_reordered() -> None:
    seen = all_of(samples([MS, 2 * MS], [(0, 3 * MS), (1, 4 * MS), (0, 5 * MS)]))
    assert (seen.duplicated, seen.reordered) == (1, 0)


def test_a_probe_sent_after_the_window_can_overtake_one_in_it() -> None:
    recording = samples([MS, 5 * MS], [(1, 6 * MS), (0, 7 * MS)])
    assert outage_between(recording, 0, 2 * MS).reordered == 1
    assert outage_between(recording, 2 * MS, 9 * MS).reordered == 0


def test_an_answer_after_the_timeout_does_not_count() -> None:
    on_time, too_late = samples([0], [(0, S + 10)]), samples([0], [(0, S + 11)])
    assert outage_between(on_time, 0, 10, answer_timeout_s=1).lost == 0
    assert outage_between(too_late, 0, 10, answer_timeout_s=1).lost == 1


def test_nothing_was_asked() -> None:
    seen = outage_between(samples([], []), 0, S)
    assert (seen.sent, seen.lost, seen.longest_silence_ms, seen.rtt_median_ms) == (0, 0, None, None)
    assert (seen.samples, seen.silence_start_s) == ((), None)


def test_nothing_was_ever_answered() -> None:
    sent = [S + number * MS for number in range(100)]
    seen = all_of(samples(sent, [], stopped=S + 100 * MS))
    assert (seen.lost, seen.longest_silence_ms) == (100, 100.0)


def test_a_silence_at_the_windows_edge_counts_in_full() -> None:
    recording = steady(1000, lost=range(300, 400))
    for start, end in ((S + 350 * MS, 2 * S), (S, S + 350 * MS), (S + 340 * MS, S + 350 * MS)):
        assert outage_between(recording, start, end).longest_silence_ms == 101.0
    assert outage_between(recording, S, S + 299 * MS).longest_silence_ms == 1.0
    assert outage_between(recording, S + 401 * MS, 2 * S).longest_silence_ms == 1.0


def test_a_silence_without_end_lasts_until_the_probe_stopped() -> None:
    recording = steady(1000, lost=range(900, 1000))
    assert recording.stopped_at_ns is not None
    assert outage_between(recording, S, 2 * S).longest_silence_ms == 100.0
    recording.stopped_at_ns = None
    assert outage_between(recording, S, 2 * S).longest_silence_ms == pytest.approx(100.75 + 1000)


def test_no_silence_while_nothing_was_outstanding() -> None:
    """A client that asks seldom, and a copy of an answer that comes much later."""
    recording = samples([S, 10 * S], [(0, S + MS), (0, 5 * S), (1, 10 * S + MS)], stopped=10 * S + MS)
    assert longest_silence(recording, S, 10 * S, S) == (5 * S, 10 * S + MS)  # the second was outstanding at its end
    assert longest_silence(recording, S, 9 * S, S) == (S, S + MS)  # until 10 s, when the time-out is over, it was not
    assert longest_silence(recording, S, 4 * S, S) == (S, S + MS)


def test_what_the_probe_did_itself_is_told_and_subtracted_from_no_one() -> None:
    sent = [S + number * MS for number in range(100) if not 40 <= number < 60]
    recording = samples(sent, [(number, at + MS // 4) for number, at in enumerate(sent)], stopped=sent[-1] + MS)
    for column, value in (
        (recording.pause_begin_ns, S + 40 * MS),
        (recording.pause_end_ns, S + 60 * MS),
        (recording.pause_cause, PauseCause.LATE),
    ):
        column.append(value)
    seen = outage_between(recording, S, 2 * S)
    assert (seen.sent, seen.lost, seen.longest_silence_ms) == (80, 0, 21.0)
    assert "was not scheduled for 20.0 ms (1 gap, at 0.040 s)" in seen.note
    assert (seen.own_gaps, seen.own_gap_total_ms, seen.own_gap_longest_ms) == (1, 20.0, 20.0)
    assert seen.own_gap_longest_start_s == 0.04
    assert "20.0 ms of that fall into the longest silence" in seen.note


def test_a_window_that_is_not_final_says_so() -> None:
    recording = samples([S, S + MS, S + 2 * MS], [(0, S + MS)], until=S + 3 * MS)
    seen = outage_between(recording, S, S + 10 * MS)
    assert seen.lost == 2
    assert "ends 7 ms before the window" in seen.note
    assert "2 probes of the lost were still within the answer time-out" in seen.note


def test_refused_sends_and_errors_of_the_network_are_named() -> None:
    recording = steady(10, lost=range(2, 7))
    recording.events = [
        Event(S + 2 * MS, "send-refused", {"errno": 101, "first": 2, "last": 6}),
        Event(S + 3 * MS, "unreachable", {"errno": 111, "count": 4}),
        Event(S + 4 * MS, "own-drops", {"count": 1}),
    ]
    note = outage_between(recording, S + 4 * MS, 2 * S).note
    assert "3 probes could not leave this machine (Network is unreachable)" in note
    assert "refused" not in note
    assert "answered 4 times with an error (Connection refused)" in outage_between(recording, S, 2 * S).note
    assert "overflowed: 1 probe" in note


def test_json_keys() -> None:
    record = outage_between(steady(10), S, 2 * S).to_dict()
    assert set(record) == {
        *("probe", "target", "probe_hz", "sent", "lost", "duplicated", "reordered", "longest_silence_ms"),
        *("rtt_median_ms", "rtt_p90_ms", "rtt_p99_ms", "rtt_p999_ms", "rtt_max_ms", "samples", "silence_start_s"),
        *("duration_s", "own_gaps", "own_gap_total_ms", "own_gap_longest_ms", "own_gap_longest_start_s", "note"),
        "throughput",
    }
    assert record["samples"][0] == [0.0, 0.25]


def test_thinned_samples_keep_the_extremes() -> None:
    recording = steady(5000, lost=range(2000, 2003))
    recording.answer_at_ns[3100] += 700_000
    seen = outage_between(recording, S, 6 * S, max_samples=300)
    assert len(seen.samples) <= 300
    assert max(rtt for _, rtt in seen.samples if rtt is not None) == 0.95
    assert any(rtt is None for _, rtt in seen.samples)
    assert sorted(seen.samples, key=lambda sample: sample[0]) == list(seen.samples)
    assert (seen.sent, seen.lost) == (5000, 3)


def test_thinned_samples_are_whole_around_the_longest_silence() -> None:
    """A long move's report looks at a few milliseconds closely: all that was seen there is kept."""
    recording = steady(600_000, lost=range(300_000, 300_050))
    seen = outage_between(recording, S, 601 * S)
    assert len(seen.samples) <= 10_000
    close = [at for at, _ in seen.samples if 299.95 <= at < 300.1]
    assert len(close) == 150
    assert sum(rtt is None for _, rtt in seen.samples) == 50
    assert seen.samples[0][0] < 0.3
    assert seen.samples[-1][0] > 599.7


def test_a_silence_too_long_to_be_kept_whole_is_thinned_as_all_else() -> None:
    seen = outage_between(steady(60_000, lost=range(20_000, 50_000)), S, 61 * S, max_samples=3000)
    assert len(seen.samples) <= 3006
    assert sum(rtt is None for _, rtt in seen.samples) >= 450


@dataclass(frozen=True)
class Story:
    """A small recording and a window."""

    sent: list[int]
    answers: Answers
    start: int
    end: int
    timeout: int
    until: int
    stopped: int | None

    @property
    def recording(self) -> Samples:
        return samples(self.sent, self.answers, until=self.until, stopped=self.stopped)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Times are small whole numbers of seconds, so that probes, answers and edges often fall together."""
    sent = sorted(draw(st.lists(st.integers(0, 30), max_size=12)))
    answers = []
    for number, at in enumerate(sent):
        answers += [(number, at + rtt) for rtt in draw(st.lists(st.integers(1, 12), max_size=2))]
    answers.sort(key=lambda answer: answer[1])
    start, end = sorted(draw(st.tuples(st.integers(0, 40), st.integers(0, 40))))
    last = max([*sent, *(at for _, at in answers), end, 0])
    until = draw(st.integers(last, last + 20))
    stopped = draw(st.none() | st.integers(sent[-1], until)) if sent else None
    return Story(
        sent=[at * S for at in sent],
        answers=[(number, at * S) for number, at in answers],
        start=start * S,
        end=end * S,
        timeout=draw(st.integers(1, 10)),
        until=until * S,
        stopped=None if stopped is None else stopped * S,
    )


def naive_counts(story: Story) -> tuple[int, int, int, int]:
    """The definitions of the module, word by word."""
    asked = [number for number, at in enumerate(story.sent) if story.start <= at < story.end]
    arrivals = [(number, at) for number, at in story.answers if at <= story.end + story.timeout * S]
    lost = duplicated = reordered = 0
    for probe in asked:
        places = [place for place, (number, _) in enumerate(arrivals) if number == probe]
        lost += not places
        duplicated += max(0, len(places) - 1)
        reordered += bool(places) and any(number > probe for number, _ in arrivals[: places[0]])
    return len(asked), lost, duplicated, reordered


def naive_silence(story: Story) -> int:
    """The length of the longest silence, by looking at every gap and every probe."""
    if not story.sent:
        return 0
    horizon = min(story.end + story.timeout * S, story.until)
    times = [at for _, at in story.answers if at <= horizon]
    is_open = not times or times[-1] < story.end
    ends = [horizon if story.stopped is None else min(horizon, story.stopped)] if is_open else []
    longest = 0
    for begin, end in pairwise([story.sent[0], *times, *ends]):
        waited = any(
            at < end
            and at + story.timeout * S > begin
            and not any(number == probe and answer <= begin for number, answer in story.answers)
            for probe, at in enumerate(story.sent)
        )
        if begin < story.end and end > story.start and waited:
            longest = max(longest, end - begin)
    return longest


@given(stories())
@example(Story([0], [(0, S), (0, 3 * S)], 0, 9 * S, 1, 9 * S, 9 * S))
def test_the_definitions_hold_for_any_recording(story: Story) -> None:
    seen = outage_between(story.recording, story.start, story.end, answer_timeout_s=story.timeout)
    assert (seen.sent, seen.lost, seen.duplicated, seen.reordered) == naive_counts(story)
    found = longest_silence(story.recording, story.start, story.end, story.timeout * S)
    assert (found[1] - found[0] if found else 0) == naive_silence(story)


@given(stories(), st.integers(0, 40))
def test_windows_side_by_side_add_up(story: Story, middle: int) -> None:
    """For answers within the time-out of any window; and the longest silence is the longer one of the two."""
    cut = min(max(story.start, middle * S), story.end)

    def seen(start: int, end: int) -> Outage:
        return outage_between(story.recording, start, end, answer_timeout_s=100.0)

    whole, first, second = seen(story.start, story.end), seen(story.start, cut), seen(cut, story.end)
    for figure in ("sent", "lost", "duplicated", "reordered"):
        assert getattr(whole, figure) == getattr(first, figure) + getattr(second, figure), figure
    silences = [one.longest_silence_ms for one in (first, second) if one.longest_silence_ms is not None]
    if story.start < cut < story.end:
        assert (whole.longest_silence_ms or 0.0) <= max(silences, default=0.0)


@given(stories(), st.integers(0, 11))
def test_losing_an_answer_never_makes_it_look_better(story: Story, which: int) -> None:
    if which >= len(story.answers):
        return
    fewer = [answer for place, answer in enumerate(story.answers) if place != which]
    worse = samples(story.sent, fewer, until=story.until, stopped=None)
    before = samples(story.sent, story.answers, until=story.until, stopped=None)

    def silence(recording: Samples) -> int:
        found = longest_silence(recording, story.start, story.end, 100 * S)
        return found[1] - found[0] if found else 0

    assert silence(worse) >= silence(before)
