"""How far apart two clocks are: never further from the truth than it says."""

import time

from hypothesis import given
from hypothesis import strategies as st

from bascule.agent.clock import DRIFT, ClockOffset, Exchange, best_of, between, wall_us

US = st.integers(0, 10_000_000)


def exchange(
    ahead_us: int, there_us: int, answering_us: int, back_us: int, sent_us: int = 1_700_000_000_000_000
) -> Exchange:
    """An exchange with a clock that is ahead by so much; the question took `there_us`, the answer `back_us`."""
    received_us = sent_us + there_us + ahead_us
    return Exchange(sent_us, received_us, received_us + answering_us, sent_us + there_us + answering_us + back_us)


def test_a_symmetric_way_gives_the_exact_offset() -> None:
    at_us = 1_700_000_000_000_325
    assert best_of([exchange(2_500_000, 300, 50, 300)]) == ClockOffset(2_500_000, 300, at_us)
    assert best_of([exchange(-2_500_000, 300, 50, 300)]) == ClockOffset(-2_500_000, 300, at_us)


def test_the_time_that_answering_took_is_no_uncertainty() -> None:
    assert best_of([exchange(0, 100, 5_000_000, 100)]).error_us == 100


def test_the_quickest_of_several_counts() -> None:
    slow = exchange(1000, 90_000, 10, 10)
    quick = exchange(1000, 120, 10, 80)
    assert best_of([slow, quick, slow]) == best_of([quick])
    assert best_of([quick]).error_us == 100


def test_a_clock_that_is_set_back_in_between_gives_no_negative_time() -> None:
    assert Exchange(1000, 5000, 5100, 900).on_the_way_us == 0


@given(st.integers(-(10**9), 10**9), st.lists(st.tuples(US, US, US), min_size=1, max_size=8))
def test_the_estimate_is_as_good_as_it_says(ahead_us: int, ways: list[tuple[int, int, int]]) -> None:
    offset = best_of(exchange(ahead_us, there, answering, back) for there, answering, back in ways)
    assert abs(offset.ahead_us - ahead_us) <= offset.error_us


# --- between two estimates --------------------------------------------------------------------------------------------

MINUTE_US = 60_000_000


@given(
    st.integers(-1000, 1000),
    st.floats(-DRIFT, DRIFT),
    st.integers(0, 30 * MINUTE_US),
    st.floats(0, 1),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
def test_between_two_estimates_a_steady_drift_is_followed(
    ahead_us: int, drift: float, lasts_us: int, share: float, wrong: tuple[float, float]
) -> None:
    """Whatever the two estimates' own errors are, the truth in between is no further off than is said."""
    error_us, at_us = 200.0, share * lasts_us
    before = ClockOffset(ahead_us + wrong[0] * error_us, error_us, 0.0)
    after = ClockOffset(ahead_us + drift * lasts_us + wrong[1] * error_us, error_us, float(lasts_us))
    then = between(before, after, at_us)
    assert abs(then.ahead_us - (ahead_us + drift * at_us)) <= then.error_us + 1e-3
    assert then.error_us == 200.0


def test_a_drift_of_a_long_copy_is_not_blamed_on_the_blackout() -> None:
    before, after = ClockOffset(0, 100, 0.0), ClockOffset(12_000, 100, 10 * MINUTE_US)
    assert between(before, after, 10 * MINUTE_US) == ClockOffset(12_000, 100, 10 * MINUTE_US)


def test_a_clock_that_was_set_meanwhile_is_in_the_error() -> None:
    then = between(ClockOffset(0, 100, 0.0), ClockOffset(2_000_000, 100, 1_000_000.0), 500_000)
    assert then.error_us > 1_000_000


def test_one_estimate_alone_grows_less_sure_with_time() -> None:
    assert ClockOffset(5, 100, 0.0).later(MINUTE_US) == ClockOffset(5, 100 + 30_000, MINUTE_US)
    assert ClockOffset(5, 100).later(MINUTE_US) == ClockOffset(5, 100)


def test_a_moment_outside_of_both_goes_by_the_surer() -> None:
    early, late = ClockOffset(0, 100, 0.0), ClockOffset(50, 100, 1_000_000.0)
    assert between(early, late, 2_000_000) == late.later(2_000_000)


def test_the_wall_clock_counts_microseconds_since_the_epoch_as_qemu_does() -> None:
    before, read, after = time.time(), wall_us(), time.time()
    assert before - 1e-6 <= read / 1e6 <= after
    assert isinstance(read, int)
