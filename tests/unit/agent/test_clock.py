"""How far apart two clocks are: never further from the truth than it says."""

import time

from hypothesis import given
from hypothesis import strategies as st

from bascule.agent.clock import ClockOffset, Exchange, best_of, wall_us

US = st.integers(0, 10_000_000)


def exchange(
    ahead_us: int, there_us: int, answering_us: int, back_us: int, sent_us: int = 1_700_000_000_000_000
) -> Exchange:
    """An exchange with a clock that is ahead by so much; the question took `there_us`, the answer `back_us`."""
    received_us = sent_us + there_us + ahead_us
    return Exchange(sent_us, received_us, received_us + answering_us, sent_us + there_us + answering_us + back_us)


def test_a_symmetric_way_gives_the_exact_offset() -> None:
    assert best_of([exchange(2_500_000, 300, 50, 300)]) == ClockOffset(2_500_000, 300)
    assert best_of([exchange(-2_500_000, 300, 50, 300)]) == ClockOffset(-2_500_000, 300)


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


def test_the_wall_clock_counts_microseconds_since_the_epoch_as_qemu_does() -> None:
    before, read, after = time.time(), wall_us(), time.time()
    assert before - 1e-6 <= read / 1e6 <= after
    assert isinstance(read, int)
