import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bascule.report import scale

values = st.floats(-1e15, 1e15)
positive = st.floats(1e-3, 1e12)


@given(positive, st.integers(2, 20))
def test_a_step_is_1_2_or_5_and_gives_few_enough_parts(span, at_most):
    step = scale.step_1_2_5(span, at_most)
    mantissa = step / 10.0 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - wanted) for wanted in (1, 2, 5)) < 1e-6
    assert span / step <= at_most * (1 + 1e-6)


@given(values, positive, st.integers(2, 12))
def test_ticks_lie_inside_and_are_not_too_many(low, span, at_most):
    assume(span > abs(low) * 1e-9)
    high = low + span
    found = scale.ticks(low, high, at_most)
    assert len(found) <= at_most + 1
    assert all(low - span * 1e-6 <= tick <= high + span * 1e-6 for tick in found)


def test_ticks_that_people_expect():
    assert scale.ticks(0, 2.31, 6) == [0, 0.5, 1, 1.5, 2]
    assert scale.tick_labels(scale.ticks(0, 2.31, 6)) == ["0", "0.5", "1.0", "1.5", "2.0"]
    assert scale.tick_labels(scale.ticks(0, 1200, 6)) == ["0", "200", "400", "600", "800", "1,000", "1,200"]
    assert scale.tick_labels([-0.5, 0.0, 0.5]) == ["\N{MINUS SIGN}0.5", "0", "0.5"]


@given(positive, st.integers(2, 12))
def test_an_axis_is_long_enough_and_not_much_too_long(value, at_most):
    end = scale.rounded_up(value, at_most)
    assert value <= end * (1 + 1e-6)
    assert end <= value + scale.step_1_2_5(value, at_most) * (1 + 1e-6)


@given(positive, positive)
def test_logarithmic_bounds_hold_both_and_span_a_decade(one, other):
    low, high = scale.log_bounds(min(one, other), max(one, other))
    assert low <= min(one, other) * (1 + 1e-6)
    assert high >= max(one, other) * (1 - 1e-6)
    assert high / low >= 10 * (1 - 1e-6)
    ticks = scale.log_ticks(low, high, 7)
    assert 1 <= len(ticks) <= 8
    assert ticks == sorted(ticks)


@given(values, values, values)
def test_a_pixel_is_never_outside(low, high, value):
    assume(low < high)
    assert 10 <= scale.Linear(low, high, 10, 110)(value) <= 110


@pytest.mark.parametrize(("value", "pixel"), [(1, 0), (10, 50), (100, 100), (1000, 100), (0, 0), (-5, 0)])
def test_a_logarithmic_scale(value, pixel):
    assert scale.Logarithmic(1, 100, 0, 100)(value) == pytest.approx(pixel)


def test_a_span_of_nothing_does_not_divide_by_it():
    assert scale.Linear(5, 5, 0, 100)(5) == 0
    assert scale.ticks(5, 5, 4) == [5]
    assert scale.step_1_2_5(5e-324, 5) == 1
