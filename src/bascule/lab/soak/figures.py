"""What is sampled of an agent while it works, and what counts as growth.

A figure of the soak is judged after a warm-up, in which caches fill, threads and connections are made, and the journal
reaches the number of moves that it keeps. From then on a count (descriptors, tasks, threads, open files) may not end
higher than it was, and what is measured in bytes has an allowance: Python's allocator and SQLite's pages move in steps.
The slope is that of a straight line through all samples after the warm-up (least squares), for each 1000 moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Bound:
    """How far a figure may grow after the warm-up: from its first value to its last, and by its slope."""

    figure: str
    growth: float
    slope_per_1000: float


# A VM that is here or not makes a handful of descriptors and tasks, but samples are taken with it at the same place.
BOUNDS = (
    Bound("resident_bytes", 8 * MIB, 4 * MIB),
    Bound("descriptors", 2, 2),
    Bound("open_files", 0, 0.5),
    Bound("threads", 1, 1),
    Bound("tasks", 2, 2),
    Bound("journal_bytes", 2 * MIB, 1 * MIB),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of one agent after `moves` moves."""

    moves: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Growth:
    """What one figure of one agent did after the warm-up."""

    host: str
    figure: str
    first: float
    last: float
    highest: float
    slope_per_1000: float
    excess: str

    @property
    def line(self) -> str:
        """One line for people and for grep."""
        text = " ".join(f"{name}={_shown(self.figure, value)}" for name, value in self._values())
        return f"{self.host} {self.figure} {text}" + (f" GROWS: {self.excess}" if self.excess else "")

    def _values(self) -> tuple[tuple[str, float], ...]:
        return (
            ("first", self.first),
            ("last", self.last),
            ("highest", self.highest),
            ("slope_per_1000_moves", self.slope_per_1000),
        )


def judge(host: str, samples: Sequence[Sample], *, warm_up: int) -> list[Growth]:
    """Compare what was sampled of one agent after `warm_up` moves with the bounds. Raises ValueError for too few."""
    counted = [sample for sample in samples if sample.moves >= warm_up]
    if len(counted) < 3:
        raise ValueError(f"only {len(counted)} samples of {host} were taken after the warm-up of {warm_up} moves")
    return [_judge_one(host, bound, counted) for bound in BOUNDS]


def _judge_one(host: str, bound: Bound, samples: Sequence[Sample]) -> Growth:
    values = [sample.values[bound.figure] for sample in samples]
    slope = slope_per_1000([sample.moves for sample in samples], values)
    grown = values[-1] - values[0]
    excess = ""
    # Both, since a short run's slope is mostly noise, and a long run's growth may be one step.
    if grown > bound.growth and slope > bound.slope_per_1000:
        allowed, is_by = _shown(bound.figure, bound.growth), _shown(bound.figure, grown)
        excess = f"by {is_by}, and {allowed} is allowed"
    return Growth(host, bound.figure, values[0], values[-1], max(values), slope, excess)


def slope_per_1000(moves: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of the least-squares line, for 1000 moves."""
    mean_x, mean_y = sum(moves) / len(moves), sum(values) / len(values)
    spread = sum((x - mean_x) ** 2 for x in moves)
    if not spread:
        return 0.0
    return 1000 * sum((x - mean_x) * (y - mean_y) for x, y in zip(moves, values, strict=True)) / spread


def _shown(figure: str, value: float) -> str:
    if figure.endswith("_bytes"):
        return f"{value / MIB:.2f}MiB"
    return f"{value:.2f}".rstrip("0").rstrip(".")
