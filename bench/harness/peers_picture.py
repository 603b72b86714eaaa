"""The comparison as one SVG that brings its colours with it, for light and dark: a panel a workload, two bars a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bascule.report.markup import Markup, element, fragment
from bascule.report.pictures import WIDE
from bascule.report.pictures.canvas import SVG_NAMESPACE, Box, label, path, rectangle, shortened
from bascule.report.scale import Logarithmic, log_bounds, log_ticks
from bascule.report.theme import picture_style
from harness.figures import median_of
from harness.peers_page import OURS, completed, silences, title_of

MARGIN = 20.0
NAMES_PX = 300.0
VALUE_PX = 64.0
ROW_PX = 30.0
BAR_PX = 10.0
HEAD_PX = 40.0
FOOT_PX = 44.0
MOST_TICKS = 12


def render(result: Mapping[str, Any]) -> str:
    """Draw all workloads under one another, on one logarithmic scale."""
    workloads = result["workloads"]
    values = [
        value
        for one in workloads.values()
        for moves in one["rows"].values()
        for value in (*silences(completed(moves)), *(move["blackout_ms"] for move in completed(moves)))
        if value > 0
    ]
    low, high = log_bounds(min(values, default=1.0), max(values, default=100.0))
    top = 68.0
    panels = []
    for one in workloads.values():
        height = HEAD_PX + ROW_PX * len(one["rows"]) + FOOT_PX
        panels.append(_panel(one, result["policies"], Box(MARGIN, top, WIDE - 2 * MARGIN, height), (low, high)))
        top += height
    told = "Blackout and longest silence of a client, by who moved the VM"
    sheet = element(
        "svg",
        element("title", told),
        element("style", picture_style()),
        rectangle(Box(0, 0, WIDE, top + 10), "ground"),
        label(MARGIN, 30, told, "head"),
        rectangle(Box(MARGIN, 43, 12, BAR_PX), "dark"),
        label(MARGIN + 18, 53, "blackout", "key"),
        rectangle(Box(MARGIN + 96, 43, 12, BAR_PX), "client"),
        label(MARGIN + 114, 53, "longest silence; medians, the lines from least to greatest", "key"),
        panels,
        xmlns=SVG_NAMESPACE,
        viewBox=f"0 0 {WIDE} {top + 10:.0f}",
        width=WIDE,
        height=round(top + 10),
        role="img",
    )
    return f"{sheet}\n"


def _panel(one: Mapping[str, Any], policies: Mapping[str, Any], room: Box, bounds: tuple[float, float]) -> Markup:
    left = room.left + NAMES_PX
    plot = Box(left, room.top + HEAD_PX, room.width - NAMES_PX - VALUE_PX, ROW_PX * len(one["rows"]))
    scale = Logarithmic(*bounds, plot.left, plot.right)
    marks = log_ticks(*bounds, MOST_TICKS)
    grid = path("".join(f"M{scale(mark):.1f} {plot.top:.1f}V{plot.bottom:.1f}" for mark in marks), "grid")
    ticks = [label(scale(mark), plot.bottom + 17, f"{mark:g}", "tick mid") for mark in marks]
    rows = [
        _row(name, moves, policies, Box(room.left, plot.top + ROW_PX * index, plot.right, ROW_PX), scale)
        for index, (name, moves) in enumerate(one["rows"].items())
    ]
    return fragment(
        label(room.left, room.top + 26, shortened(one["title"], room.width), "strong"),
        grid,
        rows,
        ticks,
        label(plot.right + VALUE_PX, plot.bottom + 17, "ms", "tick num"),
    )


def _row(name: str, moves: Any, policies: Mapping[str, Any], row: Box, scale: Logarithmic) -> Markup:
    done = completed(moves)
    text = shortened(title_of(name, policies), NAMES_PX - 10)
    own = "strong" if name == OURS else ""
    middle = row.top + ROW_PX / 2 + 4
    if not done:
        told = "gave up" if moves else "not tried"
        return fragment(label(row.left, middle, text, own), label(scale.start + 6, middle, told, "tick halo"))
    return fragment(
        label(row.left, middle, text, own),
        _bar([move["blackout_ms"] for move in done], "dark", row.top + 4, scale),
        _bar(silences(done), "client", row.top + 4 + BAR_PX + 1, scale),
    )


def _bar(values: list[float], colour: str, top: float, scale: Logarithmic) -> Markup:
    median = median_of(values)
    if median is None:
        return Markup("")
    end, middle = scale(median), top + BAR_PX / 2
    least, most = scale(min(values)), scale(max(values))
    return fragment(
        rectangle(Box(scale.start, top, max(1.5, end - scale.start), BAR_PX), colour),
        path(f"M{least:.1f} {middle:.1f}H{most:.1f}M{most:.1f} {middle - 3:.1f}v6", f"size-{colour}"),
        label(max(end, most) + 5, top + BAR_PX - 0.5, f"{median:.0f}", f"{colour} key halo"),
    )
