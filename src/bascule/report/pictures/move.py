"""One move on one sheet, as an SVG file of its own: for a README, a ticket, a chat.

It brings its ground and its colours with it, for light and for dark, since nobody knows where it will be shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bascule.report import sentences
from bascule.report.markup import Markup, element, fragment
from bascule.report.moments import move_span
from bascule.report.pictures import WIDE, blackout, client, copying
from bascule.report.pictures.canvas import SVG_NAMESPACE, Box, label, rectangle, wrapped
from bascule.report.pictures.plot import time_axis
from bascule.report.record import Report, as_report
from bascule.report.scale import Linear
from bascule.report.theme import picture_style

MARGIN = 20
HEAD_LINE_PX = 23
PLOT_PX = 168
MOST_PLOT_PX = 300
PART_PX = 31
LEFT_PX = 450
GUTTER_PX = 74


def render_move_picture(report: Report | Mapping[str, Any]) -> str:
    """Draw one move as a standalone SVG: copy and client over the whole move, and a closer look at the blackout.

    Raises:
        Refused: the report has another schema.
    """
    move = as_report(report)
    told = f"{sentences.headline(move)}."
    head = [
        label(MARGIN, 36 + HEAD_LINE_PX * index, line, "head")
        for index, line in enumerate(wrapped(told, WIDE - 2 * MARGIN, 16 * 1.12))
    ]
    body, height = _body(move, 36 + HEAD_LINE_PX * len(head) + 12)
    sheet = element(
        "svg",
        element("title", told),
        element("desc", fragment(copying.describe(move), " ", client.describe(move))),
        element("style", picture_style()),
        rectangle(Box(0, 0, WIDE, height), "ground"),
        head,
        body,
        xmlns=SVG_NAMESPACE,
        viewBox=f"0 0 {WIDE} {height:.0f}",
        width=WIDE,
        height=round(height),
        role="img",
    )
    return f"{sheet}\n"


def _body(move: Report, top: float) -> tuple[Markup, float]:
    """Give what stands under the headline, and the height of the sheet."""
    has_copy, has_client = not copying.missing(move), not client.missing(move)
    if not has_copy and not has_client:
        told = [text for text in (copying.missing(move), client.missing(move)) if text]
        lines = wrapped(" ".join(told), WIDE - 2 * MARGIN)
        notes = [label(MARGIN, top + 8 + 20 * index, line, "muted") for index, line in enumerate(lines)]
        return fragment(notes), top + 20 * len(lines) + 16
    zoom = client.zoom_of(move) if has_client else None
    aside = zoom is not None or bool(move.blackout)
    left = Box(MARGIN + copying.MARGIN_LEFT, top + 34, LEFT_PX - copying.MARGIN_LEFT, _top_px(move))
    if not aside:
        left = Box(left.left, left.top, WIDE - left.left - MARGIN, PLOT_PX)
    parts = []
    bottom = left.top
    if has_copy:
        parts.append(_copy(move, left, alone=not has_client))
        bottom = left.bottom + 44
    second_px = left.width if zoom is not None else WIDE - left.left - MARGIN
    second = Box(left.left, left.bottom + 114 if has_copy else left.top, second_px, PLOT_PX)
    if has_client:
        parts.append(client.whole_plot(move, second, zoom))
        bottom = second.bottom + client.STRIP_PX + 44
    right_left = left.right + GUTTER_PX
    right_px = WIDE - right_left - MARGIN
    if move.blackout:
        parts.append(
            _blackout(
                move, Box(right_left - client.MARGIN_LEFT + 2, left.top, right_px + client.MARGIN_LEFT - 2, left.height)
            )
        )
    if zoom is not None:
        parts.append(client.close_plot(move, Box(right_left, second.top, right_px, PLOT_PX), zoom))
    return fragment(parts), bottom + 8


def _copy(move: Report, box: Box, alone: bool) -> Markup:
    span = move_span(move)
    time = Linear(span.start_s, span.end_s, box.left, box.right)
    return fragment(
        copying.remaining_blackout(move, box, time),
        copying.remaining_plot(move, box, time),
        time_axis(box, time, "seconds from the move's start" if alone else ""),
    )


def _top_px(move: Report) -> float:
    """Give the height of the upper plots: enough for all parts of the blackout."""
    return min(MOST_PLOT_PX, max(PLOT_PX, blackout.LINE_PX + PART_PX * len(blackout.parts_of(move))))


def _blackout(move: Report, room: Box) -> Markup:
    """Fit the blackout taken apart into `room`, whatever the number of its parts and the length of their names."""
    names_px = blackout.names_width(move)
    if names_px > room.width * 0.4:
        names_px = 0.0
    box = Box(room.left + names_px, room.top, room.width - names_px, room.height)
    row_px = (box.height - blackout.LINE_PX) / max(1, len(blackout.parts_of(move)))
    return fragment(
        label(room.left, room.top - 9, f"blackout {sentences.blackout_length(move)}", "dark strong"),
        blackout.blackout_plot(move, box, blackout.Rows(row_px, room.left, names_px)),
        blackout.clock_key(move, room.left, box.bottom + 34),
    )
