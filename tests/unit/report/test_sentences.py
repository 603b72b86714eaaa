import pytest

from bascule.report import sentences, words
from bascule.report.record import Report


def headline(data) -> str:
    return sentences.headline(Report.from_dict(data)).replace(words.GLUE, " ")


def test_a_live_move_is_told_in_one_sentence(moves):
    assert headline(moves.live()) == (
        "web moved from h1 to h2 in 2.3 s; its vCPUs stood still for 14.2 ms; "
        "a client at 1 kHz lost 0 of 3,410 and heard nothing for 38 ms at worst"
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("quick", "web moved from h1 to h2 by Quick Migration in 3.7 s; its vCPUs stood still for 3.06 s; a client"),
        ("failed", "db stays on h2; its move to h3 failed after 28.3 s: the deadline of 28 s passed"),
        ("cancelled", "web stays on h2; its move to h3 was cancelled after 1.2 s: cancelled by the user in round 1"),
        ("refused", "web was not moved from h1 to h9, and nothing changed: h9 is not in the list of hosts"),
        ("unknown", "It cannot be told from here whether web runs on h1 or on h2: the move was cut off after 9 s"),
    ],
)
def test_other_ends_say_where_the_vm_is_and_why(moves, name, told):
    assert headline(getattr(moves, name)()).startswith(told)


def test_a_failed_move_of_a_vm_that_the_other_host_has_does_not_say_that_it_stays(moves):
    reason = "the VM belongs to h3 and is stopped"
    told = headline(moves.failed(belongs_to="h3", reason=reason))
    assert told.startswith(f"db is not on h2 any more; its move to h3 failed after 28.3 s: {reason}")
    assert headline(moves.failed(belongs_to="h2")).startswith("db stays on h2; ")


def test_an_outcome_that_nobody_knows_is_not_told_as_a_success():
    assert headline({"vm": "web", "outcome": "splendid"}).startswith("It cannot be told from here")


def test_a_live_move_that_broke_its_bound_says_so_and_a_quick_one_has_none(moves):
    assert sentences.goal_kept(Report.from_dict(moves.live())).endswith(": kept")
    assert sentences.goal_kept(Report.from_dict(moves.live(blackout_ms=100.1))).endswith(": not kept")
    assert sentences.goal_kept(Report.from_dict(moves.quick())) == ""


def test_only_a_completed_move_is_held_against_its_forecast(moves):
    assert "was" in sentences.forecast_lines(Report.from_dict(moves.live()))[0]
    assert "was" not in sentences.forecast_lines(Report.from_dict(moves.failed()))[0]
    assert sentences.forecast_lines(Report.from_dict(moves.refused())) == []


def test_a_part_of_the_blackout_that_nothing_explains_is_found(moves):
    data = moves.live()
    assert sentences.unaccounted_ms(Report.from_dict(data)) == 0
    del data["blackout"][0]
    assert sentences.unaccounted_ms(Report.from_dict(data)) == pytest.approx(1.6)


def test_parts_that_ran_at_once_are_not_counted_twice(moves):
    parts = [
        {"phase": "send", "start_ms": 0, "ms": 10, "clock": "source"},
        {"phase": "load", "start_ms": 2, "ms": 8, "clock": "destination"},
    ]
    report = Report.from_dict(moves.live(blackout=parts, blackout_ms=14.2))
    assert sentences.unaccounted_ms(report) == pytest.approx(4.2)
