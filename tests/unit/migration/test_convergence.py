"""The steering: when to switch over."""

from hypothesis import given
from hypothesis import strategies as st

from bascule.migration.convergence import LOW_LIMIT_MS, Reading, Steering

MIB = 1 << 20


def copied(*remaining_mib: float, bandwidth: float = 1e9, promise_ms: float = 100, total_mib: int = 1024) -> Steering:
    """A copy at a steady bandwidth whose rounds left these MiB each."""
    steering = Steering(promise_ms, fixed_ms=10).begun(Reading(0.0, total_mib * MIB, 0, bandwidth))
    at_s, sent, volume = 0.0, 0.0, total_mib * MIB
    for left in remaining_mib:
        at_s += volume / bandwidth
        sent += volume
        volume = left * MIB
        steering = steering.round_ended(Reading(at_s, int(volume), int(sent), bandwidth))
    return steering


def test_never_before_the_first_round_ends() -> None:
    steering = Steering(100, fixed_ms=10).begun(Reading(0.0, 0, 0, 1e9))
    assert not steering.advise().switch


def test_a_promise_that_does_not_fit_is_not_made() -> None:
    advice = copied(256).advise()  # 256 MiB at 1 GB/s are 268 ms
    assert not advice.switch
    assert not advice.fits
    assert advice.limit_ms == LOW_LIMIT_MS


def test_one_more_round_when_it_shortens_the_blackout() -> None:
    advice = copied(60).advise()  # fits with 73 ms, but the next round would leave a tenth of it
    assert advice.fits
    assert not advice.switch


def test_the_fixed_point_ends_the_rounds() -> None:
    advice = copied(60, 58, 58).advise()
    assert advice.switch
    assert 58 <= advice.limit_ms <= 90


def test_nothing_dirty_switches_at_once_with_the_low_limit() -> None:
    advice = copied(0.1).advise()
    assert advice.switch
    assert advice.limit_ms == LOW_LIMIT_MS


def test_qemus_own_slower_estimate_is_allowed_for() -> None:
    steering = copied(40, 38, 38)
    last = steering.last
    assert last is not None
    slower = Steering(
        steering.max_blackout_ms,
        steering.fixed_ms,
        steering.rounds,
        Reading(last.at_s, last.remaining_bytes, last.transferred_bytes, last.bandwidth_bytes_per_s / 4),
    )
    assert slower.advise().limit_ms > 3 * steering.advise().limit_ms


def test_the_reason_tells_dirtied_against_sent() -> None:
    assert "dirtied 256.0 MiB" in copied(256).why_not()
    assert "100 ms" in copied(256).why_not()


@given(
    st.lists(st.floats(0, 2048), min_size=1, max_size=12),
    st.floats(1e7, 1e10),
    st.floats(11, 5000),
)
def test_the_promise_holds_for_every_course(remaining: list[float], bandwidth: float, promise_ms: float) -> None:
    steering = copied(*remaining, bandwidth=bandwidth, promise_ms=promise_ms)
    advice = steering.advise()
    assert advice.limit_ms >= LOW_LIMIT_MS
    if advice.switch:
        assert advice.fits
        # what QEMU may still send at this limit keeps the promise
        allowed_bytes = steering.last.bandwidth_bytes_per_s * advice.limit_ms / 1000  # type: ignore[union-attr]
        assert advice.limit_ms == LOW_LIMIT_MS or steering.blackout_ms(allowed_bytes) <= promise_ms * 1.0001
    else:
        assert advice.limit_ms == LOW_LIMIT_MS


@given(st.lists(st.floats(0, 2048), min_size=1, max_size=12), st.floats(0, 100))
def test_the_curve_is_never_negative_and_passes_its_points(remaining: list[float], a: float) -> None:
    steering = copied(*remaining)
    assert steering.dirtied_in(a) >= 0
    assert steering.dirtied_in(0) == 0
