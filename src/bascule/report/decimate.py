"""Fewer points than were measured, hiding no extreme: what is drawn in a pixel column is all that happened in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """What fell into one pixel column: the lowest, the middle and the highest value, and how many."""

    index: int
    lowest: float
    median: float
    highest: float
    count: int


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring pixel columns `first` to `last` with something lost in each, `count` in all."""

    first: int
    last: int
    count: int


def column_of(at: float, start: float, end: float, columns: int) -> int:
    """Give the column in which `at` falls, when `start` to `end` are spread over `columns` of them."""
    if end <= start:
        return 0
    return min(columns - 1, max(0, int((at - start) / (end - start) * columns)))


def by_column(points: Iterable[tuple[float, float]], start: float, end: float, columns: int) -> list[Column]:
    """Gather (time, value) points into pixel columns, left to right; columns without a point are left out."""
    found: dict[int, list[float]] = {}
    for at, value in points:
        found.setdefault(column_of(at, start, end, columns), []).append(value)
    return [_column(index, sorted(values)) for index, values in sorted(found.items())]


def _column(index: int, values: list[float]) -> Column:
    return Column(index, values[0], values[len(values) // 2], values[-1], len(values))


def lost_runs(lost: Iterable[float], start: float, end: float, columns: int) -> list[Run]:
    """Gather the times of lost samples into runs of pixel columns. Every lost one is counted in exactly one run."""
    counts: dict[int, int] = {}
    for at in lost:
        index = column_of(at, start, end, columns)
        counts[index] = counts.get(index, 0) + 1
    runs: list[Run] = []
    for index in sorted(counts):
        if runs and runs[-1].last == index - 1:
            runs[-1] = Run(runs[-1].first, index, runs[-1].count + counts[index])
        else:
            runs.append(Run(index, index, counts[index]))
    return runs


def thin_line(
    points: Sequence[tuple[float, float]], start: float, end: float, columns: int
) -> list[tuple[float, float]]:
    """Keep of a line, in each pixel column, the first, the lowest, the highest and the last point.

    Drawn at that width the line looks the same (M4: Jugel and others, "M4: a visualization-oriented time series
    data aggregation", VLDB 2014). The points are in the order of time.
    """
    kept: list[tuple[float, float]] = []
    column: list[tuple[float, float]] = []
    current = -1
    for point in points:
        index = column_of(point[0], start, end, columns)
        if index != current:
            kept += _four(column)
            column, current = [], index
        column.append(point)
    return kept + _four(column)


def _four(column: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(column) <= 4:
        return column
    values = [value for _, value in column]
    positions = {0, values.index(min(values)), values.index(max(values)), len(column) - 1}
    return [column[position] for position in sorted(positions)]
