"""The parts of pre-flight that only reckon."""

from dataclasses import replace

import pytest

from bascule.agent.preflight import CLOCK_DIFFERENCE_S, _check_promise, _clock_findings
from bascule.migration.model import Goals, Mode, Move

MOVE = Move("m1", "web", "uuid", "h1", "h2", epoch=2, goals=Goals(max_blackout_ms=50))
NOW_S = 1_700_000_000.0


@pytest.mark.parametrize("there_s", [NOW_S - CLOCK_DIFFERENCE_S, NOW_S, NOW_S + 0.3, NOW_S + 0.6 + CLOCK_DIFFERENCE_S])
def test_clocks_that_agree_nearly_enough(there_s: float) -> None:
    assert _clock_findings(MOVE, NOW_S, there_s, NOW_S + 0.6) == []


def test_a_slow_answer_is_no_difference() -> None:
    assert _clock_findings(MOVE, NOW_S, NOW_S + 25, NOW_S + 29) == []


@pytest.mark.parametrize(("there_s", "told"), [(NOW_S - 7.25, "7.2 s"), (NOW_S + 0.6 + 3600, "3600.0 s")])
def test_clocks_that_differ_are_told_by_how_much(there_s: float, told: str) -> None:
    (finding,) = _clock_findings(MOVE, NOW_S, there_s, NOW_S + 0.6)
    assert finding.subject == "host h2"
    assert finding.problem == f"its clock differs from that of h1 by {told}"
    assert "chrony" in finding.remedy


def test_a_promise_below_what_was_ever_kept_is_refused() -> None:
    (finding,) = _check_promise(MOVE, 60.0)
    assert "50 ms cannot be promised" in finding.problem
    assert "60.0 ms" in finding.problem
    assert "--max-blackout 120ms" in finding.remedy


def test_a_promise_that_was_kept_before_may_be_made() -> None:
    assert _check_promise(MOVE, 12.0) == []


def test_a_quick_migration_promises_nothing() -> None:
    assert _check_promise(replace(MOVE, mode=Mode.QUICK), 5000.0) == []
