"""A client's round trips: over the whole move, and around the blackout.

The whole move stands on a logarithmic scale, where both the usual third of a millisecond and the worst of it can be
read. Around the blackout the scale is linear: a frame that waits for the VM falls by one millisecond each millisecond,
so that the wait shows as a straight slope.
"""

from __future__ import annotations

from dataclasses import dataclass

from bascule.report import words
from bascule.report.decimate import by_column, lost_runs
from bascule.report.markup import Markup, fragment
from bascule.report.moments import Span, blackout_span, mark_s, move_span, silence_span
from bascule.report.pictures import NARROW
from bascule.report.pictures.canvas import Box, label, measure, path, picture, rectangle, text_width
from bascule.report.pictures.plot import time_axis, time_grid, value_axis, veil, veil_name
from bascule.report.record import Outage, Report
from bascule.report.scale import Linear, Logarithmic, Scale, log_bounds, rounded_up

MARGIN_LEFT = 52
HEAD_PX = 51  # above each plot, for its title and what is measured out
STRIP_PX = 20  # under each plot, for what was lost
LEAST_RTT_MS = 0.01
DOT_PX = 3.0  # nearer than this dots get smaller,
LEAST_DOT_PX = 0.7  # and nearer than this they become ranges
GAP_PX = 4  # columns without an answer that the line through the middle does not bridge
LARGEST_ZOOM = 0.5  # a closer look at more than half of the move would be no closer look


@dataclass(frozen=True, slots=True)
class Zoom:
    """What the closer look shows, and the moment from which its milliseconds count."""

    span: Span
    origin_s: float
    origin_name: str


def missing(report: Report) -> str:
    """Say why there is no such picture; empty when there is one."""
    if report.outage is None:
        return "No client was watching, so nothing is known of what one would have felt."
    return "" if report.outage.samples else "The client's single round trips were not recorded."


def client_picture(report: Report, key: str, width: int) -> Markup:
    """Draw the whole move and, beside or below it, the time around the blackout."""
    zoom = zoom_of(report)
    whole, close = boxes(width, zoom, height=170 if width <= NARROW else 210, foot_px=STRIP_PX)
    last = whole if zoom is None else close
    return picture(
        key,
        width,
        last.bottom + STRIP_PX + 44,
        whole_plot(report, whole, zoom),
        close_plot(report, close, zoom) if zoom else "",
        title="A client's round trips over the move",
        description=describe(report),
    )


def boxes(width: int, zoom: Zoom | None, *, height: float, foot_px: float) -> tuple[Box, Box]:
    """Place the plot of the whole move and the closer look, where there is one, beside or below it.

    `foot_px` is what stands under each between the plot and its axis.
    """
    if zoom is None or width <= NARROW:
        whole = Box(MARGIN_LEFT, 64 if zoom else 46, width - MARGIN_LEFT - 14, height)
        return whole, Box(MARGIN_LEFT, whole.bottom + foot_px + 116, whole.width, height)
    whole = Box(MARGIN_LEFT, 62, round(width * 0.52) - MARGIN_LEFT, height)
    return whole, Box(whole.right + 70, 62, width - whole.right - 84, height)


def describe(report: Report) -> str:
    """Tell the picture to those who can't see it."""
    outage = report.outage
    if outage is None:
        return missing(report)
    return (
        f"{outage.sent:,} sent, {outage.lost:,} lost. Round trips: median {words.milliseconds(outage.rtt_median_ms)}, "
        f"longest {words.milliseconds(outage.rtt_max_ms)}. "
        f"Longest silence {words.milliseconds(outage.longest_silence_ms)}."
    )


def zoom_of(report: Report) -> Zoom | None:
    """Choose the closer look: around the blackout and the longest silence, where that is a small part of the move."""
    dark, silence = blackout_span(report), silence_span(report)
    shown = [span for span in (dark, silence) if span is not None]
    if not shown or report.outage is None:
        return None
    start, end = min(span.start_s for span in shown), max(span.end_s for span in shown)
    if dark is not None and silence is not None and end - start > 4 * (dark.length_s + silence.length_s):
        shown = [dark]  # the worst silence came at another time: look at the blackout
        start, end = dark.start_s, dark.end_s
    margin = max(0.015, 0.5 * (end - start))
    span = Span(start - margin, end + margin)
    if span.length_s > LARGEST_ZOOM * move_span(report).length_s:
        return None
    return Zoom(span, start, "the silence's begin") if dark is None else Zoom(span, dark.start_s, "STOP")


def whole_plot(report: Report, box: Box, zoom: Zoom | None) -> Markup:
    """Draw every round trip of the move, the worst of each pixel column included."""
    outage = report.outage
    if outage is None:
        return Markup("")
    span = move_span(report)
    time = Linear(span.start_s, span.end_s, box.left, box.right)
    answered = [(at_s, max(LEAST_RTT_MS, rtt_ms)) for at_s, rtt_ms in outage.samples if rtt_ms is not None]
    trips = [rtt_ms for _, rtt_ms in answered] or [0.1, 1.0]
    values = Logarithmic(*log_bounds(min(trips), max(trips)), box.bottom, box.top)
    dark = blackout_span(report)
    return fragment(
        rectangle(box, "panel"),
        value_axis(box, values, 7),
        time_grid(box, time),
        veil(box, time, dark),
        _trips(answered, box, time, values, span),
        _frame(box, time, zoom),
        veil_name(box, time, dark, f"blackout {words.milliseconds(report.blackout_ms)}"),
        label(box.left - MARGIN_LEFT + 2, box.top - head_px(zoom), "round trip in ms, logarithmic", "client"),
        lost_strip(outage, box, span),
        time_axis(_below(box), time, "seconds from the move's start"),
    )


def head_px(zoom: Zoom | None) -> float:
    """How far above the plot of the whole move its title stands: lower where no closer look stands beside it."""
    return HEAD_PX if zoom else 33


def close_plot(report: Report, box: Box, zoom: Zoom) -> Markup:
    """Draw the round trips around the blackout, with blackout and silence measured out above them."""
    outage = report.outage
    if outage is None:
        return Markup("")
    span = zoom.span
    time = Linear(span.start_s, span.end_s, box.left, box.right)
    inside = [(at_s, rtt_ms) for at_s, rtt_ms in outage.samples if span.start_s <= at_s <= span.end_s]
    answered = [(at_s, rtt_ms) for at_s, rtt_ms in inside if rtt_ms is not None]
    values = Linear(0, rounded_up(max([1.0, *(rtt_ms for _, rtt_ms in answered)]), 5), box.bottom, box.top)
    from_origin = Linear((span.start_s - zoom.origin_s) * 1e3, (span.end_s - zoom.origin_s) * 1e3, box.left, box.right)
    return fragment(
        rectangle(box, "panel"),
        value_axis(box, values, 5),
        time_grid(box, from_origin),
        veil(box, time, blackout_span(report)),
        _trips(answered, box, time, values, span),
        _measures(report, box, time),
        _announced(report, box, time, span),
        label(box.left - MARGIN_LEFT + 2, box.top - HEAD_PX, "round trip in ms, around the blackout", "client"),
        lost_strip(outage, box, span),
        time_axis(_below(box), from_origin, f"milliseconds from {zoom.origin_name}"),
    )


def lost_strip(outage: Outage, box: Box, span: Span) -> Markup:
    """Mark what was lost in a strip under `box`."""
    strip = _below(box)
    lost = [at_s for at_s, rtt_ms in outage.samples if rtt_ms is None and span.start_s <= at_s <= span.end_s]
    runs = lost_runs(lost, span.start_s, span.end_s, max(1, int(box.width)))
    top, height = box.bottom + 7, STRIP_PX - 9
    marks = [
        rectangle(
            Box(box.left + run.first, top, max(2.0, run.last + 1 - run.first), height), "lost", f"{run.count:,} lost"
        )
        for run in runs
    ]
    name = label(box.left - 7, strip.bottom - 3, "lost", "tick num")
    if not lost:
        return fragment(name, label(box.left + 4, strip.bottom - 3, "none", "tick"))
    text = f"{len(lost):,}"
    x = box.left + runs[-1].last + 6
    inside = x + text_width(text, 12) <= box.right
    return fragment(
        marks, name, label(x if inside else box.left + runs[0].first - 4, strip.bottom - 3, text, _side(inside))
    )


def _side(inside: bool) -> str:
    return "tick" if inside else "tick num"


def _below(box: Box) -> Box:
    return Box(box.left, box.bottom, box.width, STRIP_PX)


def _frame(box: Box, time: Linear, zoom: Zoom | None) -> Markup:
    if zoom is None:
        return Markup("")
    left, right = time(zoom.span.start_s), time(zoom.span.end_s)
    return path(f"M{left:.1f} {box.top:.1f}H{right:.1f}V{box.bottom:.1f}H{left:.1f}Z", "guide")


def _trips(answered: list[tuple[float, float]], box: Box, time: Linear, values: Scale, span: Span) -> Markup:
    """Draw a dot for each round trip, or where they would melt into one another the range in each pixel column."""
    if not answered:
        return Markup("")
    each_px = box.width / len(answered)
    if each_px >= LEAST_DOT_PX:
        dots = "".join(f"M{time(at_s):.1f} {values(rtt_ms):.1f}h.1" for at_s, rtt_ms in answered)
        return path(dots, "client-dot" if each_px >= DOT_PX else "client-speck")
    columns = by_column(answered, span.start_s, span.end_s, int(box.width))
    ranges, middles, last = [], [], -GAP_PX
    for column in columns:
        x = box.left + column.index + 0.5
        ranges.append(f"M{x:g} {values(column.highest):.1f}V{values(column.lowest) + 0.1:.1f}")
        joint = "L" if column.index - last < GAP_PX else f"M{x:g} {values(column.median):.1f}L"
        middles.append(f"{joint}{x + 0.1:.1f} {values(column.median):.1f}")
        last = column.index
    return fragment(path("".join(ranges), "client-range"), path("".join(middles), "client-middle"))


def _measures(report: Report, box: Box, time: Linear) -> Markup:
    parts = []
    dark, silence = blackout_span(report), silence_span(report)
    if dark is not None:
        text = f"blackout {words.milliseconds(report.blackout_ms)}"
        parts.append(measure(time(dark.start_s), time(dark.end_s), box.top - 31, text, room=box, kind="dark"))
    if silence is not None and time.low <= silence.start_s <= time.high:
        text = f"silence {words.milliseconds(silence.length_s * 1e3)}"
        parts.append(measure(time(silence.start_s), time(silence.end_s), box.top - 12, text, room=box, kind="client"))
    return fragment(parts)


def _announced(report: Report, box: Box, time: Linear, span: Span) -> Markup:
    at_s = mark_s(report, "announcement")
    if at_s is None or not span.start_s <= at_s <= span.end_s:
        return Markup("")
    x, text = time(at_s), "announced"
    fits = x + 5 + text_width(text, 12) <= box.right
    return fragment(
        path(f"M{x:.1f} {box.top:.1f}V{box.bottom:.1f}", "guide"),
        label(x + 5 if fits else x - 5, box.bottom - 8, text, "tick halo" if fits else "tick num halo"),
    )
