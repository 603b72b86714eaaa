"""What every plot over time has: a ground, axes with ticks, the blackout as a veil."""

from __future__ import annotations

from collections.abc import Sequence

from bascule.report.markup import Markup, fragment
from bascule.report.moments import Span
from bascule.report.pictures.canvas import Box, label, path, rectangle, text_width
from bascule.report.scale import Linear, Logarithmic, log_ticks, tick_labels, ticks

PX_PER_TICK = 70


def time_axis(box: Box, time: Linear, caption: str) -> Markup:
    """Draw the axis below `box`, with the caption under its right end. `time` may be in any unit."""
    values = ticks(time.low, time.high, max(2, int(box.width / PX_PER_TICK)))
    marks = "".join(f"M{time(value):.1f} {box.bottom:.1f}v5" for value in values)
    labels = [
        label(time(value), box.bottom + 18, text, "tick mid")
        for value, text in zip(values, tick_labels(values), strict=True)
    ]
    return fragment(
        path(f"M{box.left:.1f} {box.bottom:.1f}H{box.right:.1f}{marks}", "axis"),
        labels,
        label(box.right, box.bottom + 34, caption, "tick num"),
    )


def time_grid(box: Box, time: Linear) -> Markup:
    """Draw faint lines at the ticks of `time_axis`."""
    values = ticks(time.low, time.high, max(2, int(box.width / PX_PER_TICK)))
    return path("".join(f"M{time(value):.1f} {box.top:.1f}V{box.bottom:.1f}" for value in values), "grid")


def value_axis(box: Box, values: Linear | Logarithmic, at_most: int) -> Markup:
    """Draw ticks left of `box` with a grid line each."""
    if isinstance(values, Logarithmic):
        marks = log_ticks(values.low, values.high, at_most)
        labels = [f"{mark:g}" if mark < 1000 else f"{mark:,.0f}" for mark in marks]
    else:
        marks = ticks(values.low, values.high, at_most)
        labels = tick_labels(marks)
    return fragment(_lines(box, [values(mark) for mark in marks]), _names(box, marks, labels, values))


def _lines(box: Box, heights: Sequence[float]) -> Markup:
    return path("".join(f"M{box.left:.1f} {y:.1f}H{box.right:.1f}" for y in heights), "grid")


def _names(box: Box, marks: Sequence[float], labels: Sequence[str], values: Linear | Logarithmic) -> list[Markup]:
    return [label(box.left - 7, values(mark) + 4, text, "tick num") for mark, text in zip(marks, labels, strict=True)]


def veil(box: Box, time: Linear, span: Span | None) -> Markup:
    """Lay the blackout over `box`; the shortest one is still 2 pixels wide."""
    if span is None:
        return Markup("")
    left, right = time(span.start_s), time(span.end_s)
    width = max(2.0, right - left)
    return rectangle(Box(min(left, box.right - width), box.top, width, box.height), "veil")


def veil_name(box: Box, time: Linear, span: Span | None, text: str, free_from: float = 0.0) -> Markup:
    """Write the blackout's name above `box`, right of `free_from`, with a short stem down to its veil."""
    if span is None:
        return Markup("")
    x = (time(span.start_s) + time(span.end_s)) / 2
    half = text_width(text) / 2
    centre = min(max(x, box.left + half, free_from + half), box.right - half)
    return fragment(
        path(f"M{x:.1f} {box.top - 6:.1f}V{box.top:.1f}", "edge"), label(centre, box.top - 9, text, "dark mid")
    )


def polyline(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """Join pixels with straight lines."""
    if not points:
        return Markup("")
    first, *rest = points
    if not rest:
        return path(f"M{first[0]:.1f} {first[1]:.1f}h.1", class_)
    return path(f"M{first[0]:.1f} {first[1]:.1f}L" + " ".join(f"{x:.1f} {y:.1f}" for x, y in rest), class_)
