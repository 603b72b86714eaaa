from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.lab.guest.pace import Pace

STEP = 65536
MS = 1_000_000


def run(pace: Pace, until_ns: int, *, start_ns: int = 0, step_ns: int = 100_000, clients: bool = False) -> int:
    """Take every step that `pace` allows, each lasting `step_ns`, by a clock of our own; return how many."""
    now_ns, steps = start_ns, 0
    while now_ns < until_ns:
        wait_s = pace.wait_s(now_ns, clients)
        if wait_s is None:
            pace.stepped(now_ns)
            steps += 1
            now_ns += step_ns
        else:
            now_ns += max(int(wait_s * 1e9), 50_000)
    return steps


@settings(deadline=None)
@given(rate_mb_s=st.floats(1, 600))
def test_the_rate_asked_for_results(rate_mb_s: float) -> None:
    pace = Pace(STEP, 0)
    pace.limit(rate_mb_s, 0)
    steps = run(pace, 10_000 * MS)
    assert steps * STEP / 10 / 1e6 == pytest.approx(rate_mb_s, rel=0.02, abs=2 * STEP / 1e7)


def test_the_rate_achieved_is_told_when_it_cannot_be_met() -> None:
    pace = Pace(STEP, 0)
    pace.limit(2000, 0)
    run(pace, 3_000 * MS, step_ns=MS)
    assert pace.achieved_mb_s(3_000 * MS) == pytest.approx(STEP / 1e3, rel=0.01)


def test_the_rate_achieved_sinks_when_steps_cease() -> None:
    pace = Pace(STEP, 0)
    run(pace, 2_000 * MS)
    assert pace.achieved_mb_s(2_000 * MS) > 600
    assert pace.achieved_mb_s(60_000 * MS) < 30


def test_a_pause_is_not_made_up_for() -> None:
    pace = Pace(STEP, 0)
    pace.limit(100, 0)
    run(pace, 1_000 * MS)
    late = run(pace, 7_000 * MS, start_ns=6_000 * MS)
    assert late * STEP / 1e6 == pytest.approx(100 * 1.1, rel=0.02)


def test_clients_come_first_but_the_memory_is_still_rewritten() -> None:
    pace = Pace(STEP, 0)
    pace.limit(200, 0)
    steps = run(pace, 1_000 * MS, clients=True)
    assert 450 <= steps <= 500
