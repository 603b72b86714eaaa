"""What a move will cost: learnt from earlier ones, played through, and scored."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.migration.convergence import Round
from bascule.migration.forecast import Experience, Forecast, learn, percent_off, predict
from bascule.migration.model import Goals, Mode, Move, Outcome
from bascule.migration.story import Story, SwitchoverTimes

MIB = 1 << 20
GIB = 1 << 30
GOALS = Goals(100, 600)


def report(*, vm: str = "web", outcome: str = "completed", mode: str = "live", **changes: Any) -> dict[str, Any]:
    """An earlier move: 1000 MiB in 2 s, then 25 MiB in 50 ms; 20 ms of blackout, 10 of them for 5 MiB."""
    rounds = [
        {"duration_s": 2.0, "remaining_bytes": 25 * MIB, "rate_bytes_per_s": 500 * MIB},
        {"duration_s": 0.05, "remaining_bytes": 5 * MIB, "rate_bytes_per_s": 500 * MIB},
    ]
    return {
        "vm": vm,
        "outcome": outcome,
        "mode": mode,
        "total_s": 2.55,
        "blackout_ms": 20.0,
        "rounds": rounds if mode == "live" else [],
        "bytes": {"total": 1030 * MIB, "transferred_in_blackout": 5 * MIB},
    } | changes


# --- learning ---------------------------------------------------------------------------------------------------------


def test_without_earlier_moves_the_guess_is_the_default() -> None:
    assert learn([], "web", Mode.LIVE) == Experience()


def test_an_earlier_move_teaches_bandwidth_surroundings_and_the_blackout_of_nothing() -> None:
    learnt = learn([report()], "web", Mode.LIVE)
    assert learnt.bandwidth_bytes_per_s == 500 * MIB
    assert learnt.around_s == pytest.approx(0.5)
    assert learnt.fixed_ms == pytest.approx(10)
    assert learnt.curve == ((2.0, 25 * MIB), (0.05, 5 * MIB))


@pytest.mark.parametrize("outcome", ["refused", "failed", "cancelled", "unknown"])
def test_moves_that_did_not_complete_teach_nothing(outcome: str) -> None:
    assert learn([report(outcome=outcome)], "web", Mode.LIVE) == Experience()


def test_live_and_quick_do_not_teach_one_another() -> None:
    assert learn([report(mode="quick")], "web", Mode.LIVE) == Experience()
    assert learn([report()], "web", Mode.QUICK) == Experience()


def test_another_vm_teaches_the_hosts_but_not_the_guest() -> None:
    learnt = learn([report(vm="api")], "web", Mode.LIVE)
    assert learnt.bandwidth_bytes_per_s == 500 * MIB
    assert learnt.curve == ()


def test_the_newest_few_count_and_one_slow_move_does_not_spoil_the_forecast() -> None:
    slow = report()
    slow["rounds"][0]["rate_bytes_per_s"] = 50 * MIB
    old = report()
    old["rounds"][0]["rate_bytes_per_s"] = 5 * MIB
    learnt = learn([slow, report(), report(), slow, report(), *[old] * 30], "web", Mode.LIVE)
    assert learnt.bandwidth_bytes_per_s == 500 * MIB


def test_the_blackout_of_nothing_is_the_least_that_was_seen() -> None:
    assert learn([report(blackout_ms=ms) for ms in (90.0, 20.0, 45.0)], "web", Mode.LIVE).fixed_ms == pytest.approx(10)


def test_a_blackout_that_met_a_fault_does_not_refuse_the_next_move() -> None:
    """The destination's agent hung for 1.5 s in the switchover: from then on 100 ms "could not be promised"."""
    stalled = report(blackout_ms=1556.0, forecast_error={"total_percent": 10.0, "blackout_percent": 7000.0})
    assert learn([stalled], "web", Mode.LIVE).fixed_ms == Experience().fixed_ms
    assert learn([stalled, report()], "web", Mode.LIVE).fixed_ms == learn([report()], "web", Mode.LIVE).fixed_ms
    slow = report(blackout_ms=150.0)
    assert learn([slow, slow], "web", Mode.LIVE).fixed_ms == Experience().fixed_ms, "two slow moves prove nothing"
    assert learn([slow] * 3, "web", Mode.LIVE).fixed_ms == pytest.approx(140)
    always = learn([stalled] * 5, "web", Mode.LIVE)
    assert always.fixed_ms > 1000


def test_moves_that_were_not_seen_as_a_whole_teach_nothing() -> None:
    recovered = report(blackout_ms=None, rounds=[], total_s=0.0, bytes={"total": 0, "transferred_in_blackout": None})
    assert learn([recovered], "web", Mode.LIVE) == Experience()
    assert learn([recovered, report()], "web", Mode.LIVE) == learn([report()], "web", Mode.LIVE)


def test_it_reads_the_reports_that_story_writes() -> None:
    story = Story(Move("m1", "web", "uuid", "h1", "h2", epoch=2), "2024-01-01T00:00:00+00:00", "tcg", 1024)
    story.rounds = (Round(1, 0.1, 2.0, 1000 * MIB, 5 * MIB),)
    story.times = SwitchoverTimes(stopped=0, resumed=20_000)
    story.blackout_bytes, story.transferred_bytes = 5 * MIB, 1005 * MIB
    learnt = learn([story.report(Outcome.COMPLETED, "", 2.5)], "web", Mode.LIVE)
    assert learnt.bandwidth_bytes_per_s == 500 * MIB
    assert (learnt.around_s, learnt.fixed_ms) == (pytest.approx(0.5), pytest.approx(10))


# --- predicting -------------------------------------------------------------------------------------------------------


def test_an_idle_guest_takes_one_round_and_the_blackout_of_nothing() -> None:
    forecast = predict(Mode.LIVE, GOALS, 1000 * MIB, Experience(500 * MIB, around_s=0.5, fixed_ms=12))
    assert forecast.fits
    assert forecast.blackout_ms == pytest.approx(12)
    assert forecast.total_s == pytest.approx(2.0 + 0.012 + 0.5)


def test_a_guest_that_writes_costs_rounds_and_blackout() -> None:
    # 100 MiB/s at 500 MiB/s: each round leaves a fifth of the one before, down to the working set's fixed point
    writing = Experience(500 * MIB, 0.5, 12, curve=((0.5, 50 * MIB), (2.0, 200 * MIB)))
    idle = predict(Mode.LIVE, GOALS, 1000 * MIB, Experience(500 * MIB, 0.5, 12))
    busy = predict(Mode.LIVE, GOALS, 1000 * MIB, writing)
    assert busy.fits
    assert busy.total_s > idle.total_s + 0.4
    assert idle.blackout_ms < busy.blackout_ms <= 100


def test_what_cannot_fit_is_said_before() -> None:
    wild = Experience(500 * MIB, 0.5, 12, curve=((0.1, 400 * MIB), (2.0, 800 * MIB)))
    forecast = predict(Mode.LIVE, Goals(50, 60), 1000 * MIB, wild)
    assert not forecast.fits
    assert forecast.total_s == 60
    assert forecast.blackout_ms > 50


def test_a_larger_promise_lets_the_same_guest_go() -> None:
    wild = Experience(500 * MIB, 0.5, 12, curve=((0.1, 400 * MIB), (2.0, 800 * MIB)))
    assert predict(Mode.LIVE, Goals(2000, 60), 1000 * MIB, wild).fits


def test_a_quick_migration_sleeps_as_long_as_its_memory_takes() -> None:
    forecast = predict(Mode.QUICK, GOALS, 1000 * MIB, Experience(500 * MIB, around_s=0.5, fixed_ms=20))
    assert forecast == Forecast(pytest.approx(2.52), pytest.approx(2020))  # type: ignore[arg-type]


def test_a_quick_migration_like_the_last_one_is_forecast_like_the_last_one() -> None:
    last = report(mode="quick", total_s=3.0, blackout_ms=2500.0, bytes={"total": 1000 * MIB})
    forecast = predict(Mode.QUICK, GOALS, 1000 * MIB, learn([last], "web", Mode.QUICK))
    assert forecast.blackout_ms == pytest.approx(2500, rel=0.02)
    assert forecast.total_s == pytest.approx(3.0, rel=0.02)


def test_a_live_move_like_the_last_one_is_forecast_like_the_last_one() -> None:
    rounds = [
        {"duration_s": 2.0, "remaining_bytes": 6 * MIB, "rate_bytes_per_s": 500 * MIB},
        {"duration_s": 0.012, "remaining_bytes": 5 * MIB, "rate_bytes_per_s": 500 * MIB},
    ]
    last = report(rounds=rounds, total_s=2.5)
    forecast = predict(Mode.LIVE, GOALS, 1000 * MIB, learn([last], "web", Mode.LIVE))
    assert forecast.total_s == pytest.approx(2.5, rel=0.05)
    assert forecast.blackout_ms == pytest.approx(20, rel=0.15)


CURVES = st.lists(st.tuples(st.floats(0.001, 1000), st.floats(0, 64 * GIB)), max_size=6).map(tuple)


@given(
    st.sampled_from(list(Mode)),
    st.builds(Goals, st.floats(1, 10_000), st.floats(0.1, 10_000)),
    st.integers(0, 64 * GIB),
    st.builds(Experience, st.floats(1e6, 1e11), st.just(0.5), st.floats(0, 500), CURVES),
)
def test_every_forecast_is_finite_and_keeps_the_promise_or_says_that_it_cannot(
    mode: Mode, goals: Goals, touched_bytes: int, experience: Experience
) -> None:
    forecast = predict(mode, goals, touched_bytes, experience)
    assert 0 <= forecast.total_s < float("inf")
    assert 0 <= forecast.blackout_ms < float("inf")
    if mode is Mode.LIVE and forecast.fits:
        assert forecast.blackout_ms <= goals.max_blackout_ms


# --- scoring ----------------------------------------------------------------------------------------------------------


def test_percent_off() -> None:
    assert percent_off(2.0, 3.0) == 50
    assert percent_off(2.0, 1.0) == -50
    assert percent_off(0.0, 1.0) is None
