"""The report: its keys, its arithmetic across two clocks, and what a move that did not complete leaves out."""

import json
from dataclasses import replace
from typing import Any

import pytest

from bascule.migration.convergence import Round
from bascule.migration.forecast import Forecast
from bascule.migration.model import Goals, Mode, Move, Outcome
from bascule.migration.story import MOST_MARKS, MOST_SAMPLES, Story, SwitchoverTimes, run_s, with_outage

MIB = 1 << 20
STARTED_AT = "2024-05-01T12:00:00.000+00:00"
STOP_US = 1_714_564_800_000_000
AHEAD_US = 2_500_000  # the destination's clock is 2.5 s ahead


def told(**changes: Any) -> Story:
    """A live move with everything in it."""
    move = Move("m1", "web", "uuid", "h1", "h2", epoch=2, goals=Goals(50, 300))
    story = Story(move, STARTED_AT, "tcg", 1024, forecast=Forecast(2.0, 10.0), **changes)
    story.rounds = (Round(1, 0.5, 1.0, 1000 * MIB, 20 * MIB), Round(2, 1.5, 0.02, 20 * MIB, 5 * MIB))
    story.times = SwitchoverTimes(
        stopped=STOP_US,
        loaded=STOP_US + 6_000 + AHEAD_US,
        completed=STOP_US + 7_000,
        asked_there=STOP_US + 8_500 + AHEAD_US,
        decided=STOP_US + 9_000 + AHEAD_US,
        resumed=STOP_US + 12_345 + AHEAD_US,
        destination_ahead_us=AHEAD_US,
        error_us=210,
    )
    for at_s, name in ((0.0, "checking"), (0.1, "preparing"), (0.5, "copying"), (1.6, "ended")):
        story.phase(name, at_s)
    story.sample(0.5, 1024 * MIB, 0)
    story.sample(1.0, 500 * MIB, 500 * MIB)
    story.blackout_bytes, story.transferred_bytes = 5 * MIB, 1025 * MIB
    story.normal_pages, story.zero_pages = 250_000, 12_000
    story.mark("STOP", 1.52)
    return story


def completed(story: Story | None = None) -> dict[str, Any]:
    return (story or told()).report(Outcome.COMPLETED, "the VM runs on h2", 2.2)


# --- keys -------------------------------------------------------------------------------------------------------------

# The report's contract with everything that reads it: pictures, scripts, the benchmark.
KEYS = {
    *(
        "schema",
        "id",
        "vm",
        "source",
        "destination",
        "mode",
        "outcome",
        "reason",
        "belongs_to",
        "started_at",
        "total_s",
        "goals",
    ),
    *("accelerator", "memory_mib", "rounds", "bytes", "blackout_ms", "blackout_error_ms", "blackout_basis", "blackout"),
    *("forecast", "forecast_error", "timeline", "marks", "phases", "moments", "network", "frames", "outage"),
}
INNER_KEYS = {
    "goals": {"max_blackout_ms", "deadline_s"},
    "rounds": {"number", "start_s", "duration_s", "sent_bytes", "remaining_bytes", "rate_bytes_per_s"},
    "bytes": {"total", "normal_pages", "zero_pages", "other", "transferred_in_blackout"},
    "blackout": {"phase", "start_ms", "ms", "clock"},
    "moments": {"what", "at_ms", "clock", "error_ms"},
    "forecast": {"made_at_s", "total_s", "blackout_ms"},
    "forecast_error": {"total_percent", "blackout_percent"},
    "timeline": {"at_s", "remaining_bytes", "transferred_bytes", "rate_bytes_per_s"},
    "marks": {"at_s", "what"},
    "phases": {"phase", "start_s", "duration_s"},
}


def test_the_keys_are_those_of_the_contract() -> None:
    report = completed()
    assert set(report) == KEYS
    for name, keys in INNER_KEYS.items():
        inner = report[name]
        for item in inner if isinstance(inner, list) else [inner]:
            assert set(item) == keys, name
        assert inner, name


def test_it_is_json_and_says_who_and_what() -> None:
    report = json.loads(json.dumps(completed(), allow_nan=False))
    assert report["schema"] == 1
    assert {key: report[key] for key in ("id", "vm", "source", "destination", "mode", "outcome", "reason")} == {
        "id": "m1",
        "vm": "web",
        "source": "h1",
        "destination": "h2",
        "mode": "live",
        "outcome": "completed",
        "reason": "the VM runs on h2",
    }
    assert report["goals"] == {"max_blackout_ms": 50, "deadline_s": 300}
    assert (report["accelerator"], report["memory_mib"], report["total_s"]) == ("tcg", 1024, 2.2)
    assert report["started_at"] == STARTED_AT
    assert report["outage"] is None  # until a probe's is put in


# --- the blackout -----------------------------------------------------------------------------------------------------


def test_the_blackout_is_stop_to_resume_brought_to_one_clock() -> None:
    report = completed()
    assert report["blackout_ms"] == pytest.approx(12.345)
    assert report["blackout_error_ms"] == 0.21
    assert "+2500.000 ms ahead, give or take 0.210 ms" in report["blackout_basis"]


def test_its_parts_follow_one_another_add_up_and_name_their_clocks() -> None:
    report = completed()
    assert [(p["phase"], p["start_ms"], p["ms"], p["clock"]) for p in report["blackout"]] == [
        ("last memory, device state and load", 0.0, 6.0, "both"),
        ("source completes", 6.0, 1.0, "both"),
        ("word to the destination", 7.0, 1.5, "both"),
        ("decision", 8.5, 0.5, "destination"),
        ("run", 9.0, 3.345, "destination"),
    ]
    assert sum(p["ms"] for p in report["blackout"]) == pytest.approx(report["blackout_ms"])


def test_the_last_count_of_pages_gives_one_part_more() -> None:
    story = told()
    story.times.counted = STOP_US + 4_000
    parts = completed(story)["blackout"]
    assert [(p["phase"], p["ms"], p["clock"]) for p in parts[:2]] == [
        ("last pages counted", 4.0, "source"),
        ("last memory, device state and load", 2.0, "both"),
    ]
    assert sum(p["ms"] for p in parts) == pytest.approx(12.345)


def test_each_moment_names_its_clock_and_how_wrong_its_place_may_be() -> None:
    story = told()
    story.times.counted = STOP_US + 1_700
    story.times.first_frame = STOP_US + 20_000 + AHEAD_US
    assert [tuple(moment.values()) for moment in completed(story)["moments"]] == [
        ("STOP", 0.0, "source", 0.0),
        ("last pages counted", 1.7, "source", 0.0),
        ("state loaded", 6.0, "destination", 0.21),
        ("source completed", 7.0, "source", 0.0),
        ("word heard", 8.5, "destination", 0.21),
        ("decision durable", 9.0, "destination", 0.21),
        ("RESUME", 12.345, "destination", 0.21),
        ("first frame out", 20.0, "destination", 0.21),
    ]


def test_a_probe_adds_the_clients_first_answer_once() -> None:
    report = completed()
    assert run_s(report) == pytest.approx(1.532345)
    outage = {"sent": 1, "first_answer_after_run_s": 1.545}
    again = with_outage(with_outage(report, outage), outage)
    assert again["outage"] == outage
    assert again["moments"][:-1] == report["moments"]
    assert again["moments"][-1] == {
        "what": "first answer at the client",
        "at_ms": pytest.approx(25.0),
        "clock": "client",
        "error_ms": 0.0,
    }


@pytest.mark.parametrize("outage", [{}, {"first_answer_after_run_s": None}])
def test_a_probe_that_saw_no_answer_after_the_run_adds_no_moment(outage: dict[str, Any]) -> None:
    assert with_outage(completed(), outage)["moments"] == completed()["moments"]


def test_a_move_without_a_blackout_has_no_moment_of_the_client_either() -> None:
    refused = told().report(Outcome.REFUSED, "no memory", 0.2)
    assert with_outage(refused, {"first_answer_after_run_s": 1.0})["moments"] == []
    assert run_s(refused) is None


def test_the_clocks_error_makes_no_part_negative() -> None:
    story = told()
    story.times.completed = STOP_US + 5_900  # by its own clock before the destination had loaded
    parts = completed(story)["blackout"]
    assert all(p["ms"] >= 0 for p in parts)
    assert sum(p["ms"] for p in parts) == pytest.approx(12.345)


def test_a_quick_migration_is_taken_apart_in_its_own_way() -> None:
    story = told()
    story.move = replace(story.move, mode=Mode.QUICK)
    times = story.times
    times.saved, times.completed = STOP_US + 900_000, STOP_US + 900_000
    times.asked_there, times.loaded = STOP_US + 901_000 + AHEAD_US, STOP_US + 1_500_000 + AHEAD_US
    times.decided, times.resumed = STOP_US + 1_500_400 + AHEAD_US, STOP_US + 1_503_000 + AHEAD_US
    report = completed(story)
    assert report["blackout_ms"] == pytest.approx(1503)
    assert [(p["phase"], p["ms"], p["clock"]) for p in report["blackout"]] == [
        ("save", 900.0, "source"),
        ("word to the destination", 1.0, "both"),
        ("load", 599.0, "destination"),
        ("decision", 0.4, "destination"),
        ("run", 2.6, "destination"),
    ]


def test_what_was_not_seen_is_left_out_and_not_guessed() -> None:
    story = told()
    story.times = replace(story.times, loaded=None, decided=None)
    parts = completed(story)["blackout"]
    assert [p["phase"] for p in parts] == ["source completes", "word to the destination", "run"]
    assert sum(p["ms"] for p in parts) == pytest.approx(12.345)


# --- moves that did not complete --------------------------------------------------------------------------------------


def test_a_refused_move_has_its_reason_and_nothing_measured() -> None:
    story = Story(told().move, STARTED_AT, "tcg", 1024)
    story.phase("checking", 0.0)
    report = story.report(Outcome.REFUSED, "no memory", 0.2)
    assert set(report) == KEYS
    for key in ("blackout_ms", "forecast", "forecast_error", "outage"):
        assert report[key] is None, key
    for key in ("rounds", "blackout", "moments", "timeline", "marks"):
        assert report[key] == [], key
    assert report["bytes"] == {
        "total": 0,
        "normal_pages": 0,
        "zero_pages": 0,
        "other": 0,
        "transferred_in_blackout": None,
    }
    assert report["phases"] == [{"phase": "checking", "start_s": 0.0, "duration_s": 0.2}]
    assert (report["outcome"], report["reason"]) == ("refused", "no memory")


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.COMPLETED])
def test_only_a_completed_move_has_a_blackout(outcome: Outcome) -> None:
    report = told().report(outcome, "why", 2.2)
    assert (report["blackout_ms"], report["blackout"], report["forecast_error"]) == (None, [], None)
    assert report["forecast"] == {"made_at_s": 0.0, "total_s": 2.0, "blackout_ms": 10.0}
    assert len(report["rounds"]) == 2


def test_a_move_that_completed_while_the_agent_was_away_has_no_blackout_either() -> None:
    story = Story(told().move, STARTED_AT, "", 0)
    report = completed(story)
    assert (report["blackout_ms"], report["blackout"]) == (None, [])


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_bytes_by_kind() -> None:
    assert completed()["bytes"] == {
        "total": 1025 * MIB,
        "normal_pages": 250_000 * 4096,
        "zero_pages": 12_000 * 4096,
        "other": 1025 * MIB - 250_000 * 4096,
        "transferred_in_blackout": 5 * MIB,
    }


def test_rounds_and_their_rates() -> None:
    first, second = completed()["rounds"]
    assert first == {
        "number": 1,
        "start_s": 0.5,
        "duration_s": 1.0,
        "sent_bytes": 1000 * MIB,
        "remaining_bytes": 20 * MIB,
        "rate_bytes_per_s": 1000 * MIB,
    }
    assert second["rate_bytes_per_s"] == 1000 * MIB


def test_phases_last_until_the_next_one_and_the_last_until_the_end() -> None:
    assert [(p["phase"], p["start_s"], p["duration_s"]) for p in completed()["phases"]] == [
        ("checking", 0.0, 0.1),
        ("preparing", 0.1, 0.4),
        ("copying", 0.5, 1.1),
        ("ended", 1.6, 0.6),
    ]


def test_a_phase_that_goes_on_is_one_phase() -> None:
    story = told()
    story.phase("ended", 1.9)
    assert [p["phase"] for p in completed(story)["phases"]].count("ended") == 1


def test_the_forecast_is_scored_against_what_came() -> None:
    error = completed()["forecast_error"]
    assert error["total_percent"] == pytest.approx(10.0)
    assert error["blackout_percent"] == pytest.approx(23.45)


def test_samples_give_rates_and_those_too_near_are_left_out() -> None:
    story = Story(told().move, STARTED_AT, "tcg", 1024)
    assert story.sample(1.0, 100, 1000) == 0.0
    assert story.sample(1.5, 90, 2000) == pytest.approx(2000)
    assert story.sample(1.501, 80, 9999) == pytest.approx(2000)
    assert [s["at_s"] for s in story.timeline] == [1.0, 1.5]
    assert story.transferred_bytes == 9999  # what is known to be sent is known all the same
    assert story.sample(2.0, 90, 1500) == 0.0  # QEMU's counter begins anew with a new migration


def test_a_copy_of_days_is_sampled_more_coarsely() -> None:
    story = Story(Move("m1", "web", "uuid", "h1", "h2", epoch=2), STARTED_AT, "tcg", 1024)
    for number in range(10 * MOST_SAMPLES):
        story.sample(number / 10, 1 << 30, number << 20)

    at_s = [sample["at_s"] for sample in story.timeline]
    assert MOST_SAMPLES / 2 <= len(at_s) <= MOST_SAMPLES
    assert (at_s[0], at_s[-1]) == (0.0, pytest.approx(MOST_SAMPLES - 0.1))
    assert at_s == sorted(at_s)


def test_what_is_tried_for_days_does_not_fill_the_report() -> None:
    story = Story(Move("m1", "web", "uuid", "h1", "h2", epoch=2), STARTED_AT, "tcg", 1024)
    for number in range(10 * MOST_MARKS):
        story.mark("announcement by the source", number)

    assert len(story.marks) == MOST_MARKS
