"""From values to pixels, and the values at which an axis gets its ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from bascule.report import words

LEAST_SPAN = 1e-12  # nothing that is shown is shorter; powers of ten end somewhere below


@dataclass(frozen=True, slots=True)
class Linear:
    """Values `low` to `high` on pixels `start` to `end`; values outside stick to the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Give the pixel of `value`."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


@dataclass(frozen=True, slots=True)
class Logarithmic:
    """As Linear, by the logarithm: equal steps are equal factors. `low` is above 0."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Give the pixel of `value`; 0 and less stick to the low edge."""
        share = math.log(max(value, self.low) / self.low) / (math.log(self.high / self.low) or 1.0)
        return self.start + min(1.0, share) * (self.end - self.start)


Scale = Linear | Logarithmic


def step_1_2_5(span: float, at_most: int) -> float:
    """Give the smallest step of 1, 2 or 5 times a power of ten that divides `span` into at most `at_most` parts."""
    if span < LEAST_SPAN:
        return 1.0
    least = span / max(1, at_most)
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def ticks(low: float, high: float, at_most: int) -> list[float]:
    """Give the multiples of a 1-2-5 step from `low` to `high`, at most `at_most` + 1 of them."""
    step = step_1_2_5(high - low, at_most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def rounded_up(value: float, at_most: int) -> float:
    """Give the end of an axis from 0 that holds `value`: the next multiple of its own tick step."""
    step = step_1_2_5(value, at_most)
    return max(1, math.ceil(value / step - 1e-9)) * step


def tick_labels(values: list[float]) -> list[str]:
    """Write ticks with as many decimals as their step needs, and no more."""
    step = min((abs(b - a) for a, b in pairwise(values)), default=abs(values[0]) if values else 1)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9)) if step else 0
    return [_unsigned_zero(f"{value:,.{decimals}f}") for value in values]


def _unsigned_zero(written: str) -> str:
    is_zero = not written.strip("-0.,")
    return "0" if is_zero else written.replace("-", words.MINUS)


def log_bounds(low: float, high: float) -> tuple[float, float]:
    """Widen positive bounds to 1-2-5 numbers, at least one decade apart."""
    below = max(step for step in _one_two_five(low / 10, low) if step <= low * (1 + 1e-9))
    above = min(step for step in _one_two_five(high, high * 10) if step >= high * (1 - 1e-9))
    return below, max(above, below * 10)


def log_ticks(low: float, high: float, at_most: int) -> list[float]:
    """Give 1-2-5 numbers from `low` to `high`, or only powers of ten where those would be too many."""
    every = [step for step in _one_two_five(low, high) if low * (1 - 1e-9) <= step <= high * (1 + 1e-9)]
    powers = [step for step in every if math.isclose(math.log10(step), round(math.log10(step)), abs_tol=1e-9)]
    return every if len(every) <= at_most else powers[:: max(1, math.ceil(len(powers) / max(1, at_most)))]


def _one_two_five(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [_scaled(step, power) for power in range(first, last + 1) for step in (1, 2, 5)]


def _scaled(step: int, power: int) -> float:
    """Give step times ten to the power; a negative one as a quotient, since 2 / 10 is 0.2 and 2 * 0.1 may not be."""
    return step * 10.0**power if power >= 0 else step / 10.0**-power
