import pytest

from bascule.report import moments
from bascule.report.moments import Span
from bascule.report.record import Report


def test_the_blackout_starts_at_stop_and_has_the_measured_length(moves):
    data = moves.live()
    data["marks"][-1] = {"at_s": 99.0, "what": "RESUME"}  # another clock: of no use where the length was measured
    span = moments.blackout_span(Report.from_dict(data))
    assert span is not None
    assert span.start_s == 2.1312
    assert span.length_s * 1e3 == pytest.approx(14.2)


def test_without_a_measured_length_resume_ends_the_blackout(moves):
    span = moments.blackout_span(Report.from_dict(moves.live(blackout_ms=None)))
    assert span is not None
    assert span.end_s == pytest.approx(2.1454)


@pytest.mark.parametrize(
    "marks",
    [
        None,
        [{"at_s": 1.0, "what": "RESUME"}],
        [{"at_s": 1.0, "what": "STOPPED by hand"}],
        [{"at_s": 1.0, "what": "STOP"}],
        [{"at_s": 1.0, "what": "STOP"}, {"at_s": 0.5, "what": "RESUME"}],
    ],
)
def test_without_stop_and_an_end_there_is_no_blackout_to_draw(moves, marks):
    assert moments.blackout_span(Report.from_dict(moves.live(blackout_ms=None, marks=marks))) is None


def moment(what, at_ms, clock):
    return {"what": what, "at_ms": at_ms, "clock": clock, "error_ms": 0.1}


def test_after_the_run_come_the_first_frame_and_the_first_answer_each_with_its_clocks(moves):
    parts = moments.after_run(Report.from_dict(moves.live()))
    assert [(part.phase, part.start_ms, pytest.approx(part.ms), part.clock) for part in parts] == [
        ("first frame out", 14.2, 21.8, "destination"),
        ("first answer at the client", 36.0, 2.0, "both"),
    ]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([], []),
        ([moment("STOP", 0, "source")], []),
        ([moment("first frame out", 9, "destination"), moment("first answer at the client", 10, "client")], []),
        ([moment("RESUME", 8, "destination"), moment("first answer at the client", 10, "client")], [(8, 2, "both")]),
        # the clocks' error may turn two near moments round; a part is never negative
        ([moment("RESUME", 8, "destination"), moment("first answer at the client", 7.9, "client")], [(8, 0, "both")]),
    ],
)
def test_what_was_not_seen_after_the_run_is_left_out(moves, seen, expected):
    parts = moments.after_run(Report.from_dict(moves.live(moments=seen)))
    assert [(part.start_ms, part.ms, part.clock) for part in parts] == expected


def test_the_move_includes_what_the_client_saw_before_and_after(moves):
    span = moments.move_span(Report.from_dict(moves.live()))
    assert span.start_s == pytest.approx(-0.55)
    assert span.end_s == pytest.approx(2.86, abs=0.002)


def test_a_move_of_nothing_still_has_a_length():
    assert moments.move_span(Report.from_dict({})) == Span(0.0, 1e-3)


@pytest.mark.parametrize(
    ("expected", "outcome", "missed"),
    [(10.0, 12.0, 20.0), (10.0, 5.0, -50.0), (0.0, 1.0, None), (None, 1.0, None), (1.0, None, None)],
)
def test_what_a_forecast_missed(expected, outcome, missed):
    assert moments.missed_percent(expected, outcome) == (None if missed is None else pytest.approx(missed))
