"""Several moves side by side: how long each client heard nothing, and for how long the VM stood still.

The scale is linear. What a Quick Migration costs beside a live one is the point, and a logarithm would hide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bascule.report import words
from bascule.report.markup import Markup, fragment
from bascule.report.pictures import NARROW
from bascule.report.pictures.canvas import Box, label, picture, rectangle, shortened, text_width
from bascule.report.pictures.plot import time_axis, time_grid
from bascule.report.record import Report
from bascule.report.scale import Linear, rounded_up

BAR_PX = 14
VALUE_PX = 138  # for "blackout 14.2 ms" after the longest bar


@dataclass(frozen=True, slots=True)
class Cost:
    """What one move cost, and its name in the list."""

    name: str
    silence_ms: float | None
    blackout_ms: float | None


def costs(reports: Sequence[Report]) -> list[Cost]:
    """Give what the moves cost, without those of which nothing was measured; they keep their numbers."""
    found = []
    for number, report in enumerate(reports, 1):
        silence_ms = report.outage.longest_silence_ms if report.outage else None
        way = f"{words.visible(report.source)} → {words.visible(report.destination)}"
        if silence_ms is not None or report.blackout_ms is not None:
            found.append(Cost(f"{number}. {way}, {report.mode}", silence_ms, report.blackout_ms))
    return found


def missing(reports: Sequence[Report]) -> str:
    """Say why there is no such picture; empty when there is one."""
    return "" if costs(reports) else "Neither an outage nor a blackout was measured in any of these moves."


def comparison_picture(reports: Sequence[Report], key: str, width: int) -> Markup:
    """Draw two bars for each move: the client's longest silence, and the blackout."""
    shown = costs(reports)
    narrow = width <= NARROW
    names_px = 0.0 if narrow else min(260.0, max(text_width(cost.name) for cost in shown) + 16)
    row_px = 62 if narrow else 48
    longest_ms = max([1.0, *(max(cost.silence_ms or 0.0, cost.blackout_ms or 0.0) for cost in shown)])
    left = max(4.0, names_px)
    box = Box(left, 4, width - left - VALUE_PX, row_px * len(shown))
    unit_ms, caption = (1e3, "seconds") if longest_ms >= 1000 else (1.0, "milliseconds")
    scale = Linear(0, rounded_up(longest_ms / unit_ms, 5), box.left, box.right)
    rows = [
        _row(cost, Box(box.left, box.top + row_px * index, box.width, row_px), scale, unit_ms, names_px)
        for index, cost in enumerate(shown)
    ]
    return picture(
        key,
        width,
        box.bottom + 40,
        time_grid(box, scale),
        rows,
        time_axis(box, scale, caption),
        title="What each move cost",
        description=" ".join(
            f"{cost.name}: longest silence {words.milliseconds(cost.silence_ms)}, "
            f"blackout {words.milliseconds(cost.blackout_ms)}."
            for cost in shown
        ),
    )


def _row(cost: Cost, row: Box, scale: Linear, unit_ms: float, names_px: float) -> Markup:
    top = row.top + (8 if names_px else 22)
    if names_px:
        name = label(0, top + BAR_PX + 6, shortened(cost.name, names_px - 8))
    else:
        name = label(row.left, row.top + 15, shortened(cost.name, row.width + VALUE_PX), "halo")
    first, second = Box(row.left, top, 0, BAR_PX), Box(row.left, top + BAR_PX + 3, 0, BAR_PX)
    return fragment(
        name,
        _bar(cost.silence_ms, "silence", "client", first, scale(_in(cost.silence_ms, unit_ms))),
        _bar(cost.blackout_ms, "blackout", "dark", second, scale(_in(cost.blackout_ms, unit_ms))),
    )


def _in(value_ms: float | None, unit_ms: float) -> float:
    return (value_ms or 0.0) / unit_ms


def _bar(value_ms: float | None, what: str, colour: str, line: Box, end: float) -> Markup:
    if value_ms is None:
        return label(line.left + 6, line.top + 11, f"no {what} measured", "tick halo")
    end = max(end, line.left + 1.5)
    return fragment(
        rectangle(Box(line.left, line.top, end - line.left, line.height), colour),
        label(end + 6, line.top + 12, f"{what} {words.milliseconds(value_ms)}", f"{colour} halo"),
    )
