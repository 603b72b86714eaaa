from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bascule.network.probe.pacer import NS_PER_S, Pacer


def test_moments_stand_on_a_grid_however_late_the_caller_is() -> None:
    pacer = Pacer(1000, 5_000_000)
    used = []
    for late_ns in (0, 300_000, 999_999, 0):
        used.append(pacer.due_ns)
        assert pacer.advance(pacer.due_ns + late_ns) == 0
    assert used == [5_000_000, 6_000_000, 7_000_000, 8_000_000]


def test_what_is_missed_is_skipped_and_told() -> None:
    pacer = Pacer(1000, 0)
    assert pacer.advance(3_500_000) == 3  # it stands for the moment 0; 1, 2 and 3 ms are over
    assert pacer.due_ns == 4_000_000
    assert pacer.advance(5_000_000) == 1  # that moment is now: it is over too
    assert pacer.due_ns == 6_000_000


def test_a_third_of_a_second_does_not_drift() -> None:
    pacer = Pacer(3, 0)
    for _ in range(3 * 3600):
        pacer.advance(pacer.due_ns)
    assert pacer.due_ns == 3600 * NS_PER_S


@given(
    st.floats(0.1, 10_000),
    st.integers(0, 10**15),
    st.lists(st.integers(0, 10**10), max_size=20),
)
def test_every_moment_is_used_or_skipped_once(hz: float, first_ns: int, waits_ns: list[int]) -> None:
    pacer = Pacer(hz, first_ns)
    moments = 0
    for wait_ns in waits_ns:
        now_ns = pacer.due_ns + wait_ns
        skipped = pacer.advance(now_ns)
        moments += 1 + skipped
        period_ns = NS_PER_S / hz
        assert skipped >= 0
        assert now_ns < pacer.due_ns <= now_ns + period_ns + 2
        assert abs(pacer.due_ns - (first_ns + moments * period_ns)) <= 1 + 1e-9 * moments * period_ns
