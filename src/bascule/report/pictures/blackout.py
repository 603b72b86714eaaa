"""The blackout taken apart: one line of time in ms, and under it each part in its place.

The line on top shows all parts together. Under it each part has a row of its own, so that a part of 0.3 ms beside one
of 20 ms keeps its name, and parts that ran on both hosts at once don't hide one another. What followed the blackout,
the VM's first frame and the client's first answer, has its rows on the same axis, beyond the end of that line.
"""

from __future__ import annotations

from dataclasses import dataclass

from bascule.report import sentences, words
from bascule.report.markup import Markup, fragment
from bascule.report.moments import after_run
from bascule.report.pictures import NARROW
from bascule.report.pictures.canvas import Box, label, path, picture, rectangle, shortened, text_width
from bascule.report.pictures.plot import time_axis, time_grid
from bascule.report.record import BlackoutPart, Report
from bascule.report.scale import Linear

CLOCKS = {"source": "copy", "destination": "other", "both": "dark", "client": "client"}
BAR_PX = 16
LINE_PX = 34  # the line of all parts, and the space below it


@dataclass(frozen=True, slots=True)
class Rows:
    """How the parts stand: how far apart, and where their names are; without room for names those go above the bars."""

    height_px: float
    names_left: float
    names_px: float


def missing(report: Report) -> str:
    """Say why there is no such picture; empty when there is one."""
    if report.blackout:
        return ""
    if report.blackout_ms is not None:
        return f"The blackout took {words.milliseconds(report.blackout_ms)}; its parts were not recorded."
    if report.outcome == "completed":
        return "The blackout was not measured."
    if report.outcome == "unknown":
        return "For how long the VM stood still cannot be told from here."
    return "The VM was not handed over, so there is no blackout to take apart."


def blackout_picture(report: Report, key: str, width: int) -> Markup:
    """Draw the blackout on one line of time, and every part of it under that line."""
    narrow = width <= NARROW
    top = 30 if narrow else 8
    row_px = 40 if narrow else 26
    whole = f"blackout {sentences.blackout_length(report)}" if report.blackout_ms is not None else "blackout"
    names_px = 0.0 if narrow else min(270.0, max(names_width(report), text_width(whole) * 1.1 + 16))
    left = max(8.0, names_px)
    box = Box(left, top, width - left - 22, LINE_PX + row_px * len(parts_of(report)))
    return picture(
        key,
        width,
        box.bottom + 40,
        label(0, 18, whole, "strong") if narrow else label(0, top + BAR_PX, shortened(whole, names_px), "strong"),
        blackout_plot(report, box, Rows(row_px, 0, names_px)),
        title="The blackout taken apart",
        description=describe(report),
    )


def parts_of(report: Report) -> list[BlackoutPart]:
    """Give the parts of the blackout and, after them, of what the client waited for beyond it."""
    return [*report.blackout, *after_run(report)]


def names_width(report: Report) -> float:
    """Give the room that the names of the parts need."""
    return max(text_width(_name(part)) for part in parts_of(report)) + 16


def blackout_plot(report: Report, box: Box, rows: Rows) -> Markup:
    """Draw line, rows and axis into `box`, and the names where `rows` says."""
    shown = parts_of(report)
    end_ms = max([report.blackout_ms or 0.0, *(part.start_ms + part.ms for part in shown)]) or 1.0
    time = Linear(0, end_ms, box.left, box.right)
    line = Box(box.left, box.top, time(report.blackout_ms or end_ms) - box.left, BAR_PX + 6)
    parts = [
        _row(part, box, time, box.top + LINE_PX + rows.height_px * index, rows) for index, part in enumerate(shown)
    ]
    guides = "".join(
        f"M{time(part.start_ms):.1f} {line.bottom:.1f}V{box.top + LINE_PX + rows.height_px * index + BAR_PX:.1f}"
        for index, part in enumerate(shown)
    )
    return fragment(
        time_grid(box, time),
        path(guides, "guide"),
        rectangle(line, "veil"),
        [_segment(part, time, line) for part in _by_length(report)],
        parts,
        time_axis(box, time, "milliseconds from STOP"),
    )


def describe(report: Report) -> str:
    """Tell the picture to those who can't see it."""
    return " ".join(
        f"{part.phase}: {words.milliseconds(part.ms)} from {words.milliseconds(part.start_ms)} on."
        for part in parts_of(report)
    )


def clocks_used(report: Report) -> list[str]:
    """Give the clocks of the parts, in the order of the legend."""
    used = {part.clock for part in parts_of(report)}
    return [clock for clock in CLOCKS if clock in used]


def clock_key(report: Report, x: float, y: float) -> Markup:
    """Name the clocks in their colours, in one line from x on."""
    keys = []
    for clock in clocks_used(report):
        text = f"\N{BLACK SQUARE} {clock}"
        keys.append(label(x, y, text, f"{CLOCKS[clock]} key"))
        x += text_width(text, 12) + 8
    return fragment(keys)


def _name(part: BlackoutPart) -> str:
    return words.visible(part.phase)


def _by_length(report: Report) -> list[BlackoutPart]:
    """Long parts first, so that a short one is drawn over a long one and not under it."""
    return sorted(report.blackout, key=lambda part: -part.ms)


def _segment(part: BlackoutPart, time: Linear, line: Box) -> Markup:
    start, end = time(part.start_ms), time(part.start_ms + part.ms)
    gap = 1.0 if end - start > 4 else 0.0  # keeps neighbours of one colour apart
    box = Box(start, line.top, max(1.5, end - start - gap), line.height)
    return rectangle(box, CLOCKS.get(part.clock, "dark"), f"{_name(part)}: {words.milliseconds(part.ms)}")


def _row(part: BlackoutPart, box: Box, time: Linear, top: float, rows: Rows) -> Markup:
    start, end = time(part.start_ms), time(part.start_ms + part.ms)
    value = words.milliseconds(part.ms)
    if not rows.names_px:
        text = f"{shortened(_name(part), box.width - text_width(value) - 20)} · {value}"
        fits = start + text_width(text) <= box.right
        name = label(start if fits else box.right, top + 11, text, "halo" if fits else "num halo")
        bar = Box(0, top + 15, 0, min(BAR_PX, rows.height_px - 19))
        return fragment(_segment(part, time, bar), name)
    name = label(rows.names_left, top + 13, shortened(_name(part), rows.names_px - 8))
    after = end + 6 + text_width(value) <= box.right + 20
    amount = label(max(end, start + 1.5) + 6 if after else start - 6, top + 13, value, "halo" if after else "num halo")
    return fragment(name, _segment(part, time, Box(0, top, 0, BAR_PX)), amount)
