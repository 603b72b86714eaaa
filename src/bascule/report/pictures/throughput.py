"""What came back of a client's bulk TCP stream, in steps of 10 ms: over the whole move, and around the blackout.

The time lines are those of `client.py`, so that the pictures of one page stand under one another. A step in which
nothing came is a gap down to the ground.
"""

from __future__ import annotations

from bascule.report import throughput, words
from bascule.report.decimate import thin_line
from bascule.report.markup import Markup, fragment
from bascule.report.moments import Span, blackout_span, move_span
from bascule.report.pictures import NARROW
from bascule.report.pictures.canvas import Box, label, measure, path, picture, rectangle
from bascule.report.pictures.client import HEAD_PX, MARGIN_LEFT, Zoom, boxes, head_px, zoom_of
from bascule.report.pictures.plot import time_axis, time_grid, value_axis, veil, veil_name
from bascule.report.record import Outage, Report
from bascule.report.scale import Linear, rounded_up
from bascule.report.throughput import Throughput

AXIS_PX = 44
KIB = 1024


def streams(report: Report) -> list[Outage]:
    """Give what bulk streams saw of the move: the report's client or further ones."""
    seen = (report.outage, *report.outage.others) if report.outage is not None else ()
    return [outage for outage in seen if outage.throughput is not None]


def throughput_picture(report: Report, outage: Outage, key: str, width: int) -> Markup:
    """Draw the whole move and, beside or below it, the time around the blackout."""
    zoom = zoom_of(report)
    whole, close = boxes(width, zoom, height=150 if width <= NARROW else 180, foot_px=0)
    last = whole if zoom is None else close
    return picture(
        key,
        width,
        last.bottom + AXIS_PX,
        whole_plot(report, outage, whole, zoom),
        close_plot(report, outage, close, zoom) if zoom else "",
        title="What came back of a bulk TCP stream over the move",
        description=describe(report, outage),
    )


def describe(report: Report, outage: Outage) -> str:
    """Tell the picture to those who can't see it."""
    if outage.throughput is None:
        return "No bulk stream was watching."
    stalled = throughput.stall(outage.longest_silence_ms, report.blackout_ms)
    return "; ".join(part for part in (throughput.amount(outage.throughput), stalled) if part) + "."


def whole_plot(report: Report, outage: Outage, box: Box, zoom: Zoom | None) -> Markup:
    """Draw the stream over the whole move, with the blackout as a veil."""
    if outage.throughput is None:
        return Markup("")
    span, dark = move_span(report), blackout_span(report)
    time = Linear(span.start_s, span.end_s, box.left, box.right)
    return fragment(
        _ground(outage.throughput, box, time, span, dark),
        time_grid(box, time),
        veil_name(box, time, dark, f"blackout {words.milliseconds(report.blackout_ms)}"),
        label(box.left - MARGIN_LEFT + 2, box.top - head_px(zoom), _caption(outage.throughput), "client"),
        time_axis(box, time, "seconds from the move's start"),
    )


def close_plot(report: Report, outage: Outage, box: Box, zoom: Zoom) -> Markup:
    """Draw the steps around the blackout, with blackout and stall measured out above them."""
    if outage.throughput is None:
        return Markup("")
    span = Span(zoom.span.start_s - zoom.span.length_s / 2, zoom.span.end_s + zoom.span.length_s / 2)
    time = Linear(span.start_s, span.end_s, box.left, box.right)
    from_origin = Linear((span.start_s - zoom.origin_s) * 1e3, (span.end_s - zoom.origin_s) * 1e3, box.left, box.right)
    return fragment(
        _ground(outage.throughput, box, time, span, blackout_span(report)),
        time_grid(box, from_origin),
        _measures(report, outage, box, time),
        label(box.left - MARGIN_LEFT + 2, box.top - HEAD_PX, "the same, around the blackout", "client"),
        time_axis(box, from_origin, f"milliseconds from {zoom.origin_name}"),
    )


def _caption(seen: Throughput) -> str:
    return f"KiB that came back in each {words.milliseconds(seen.step_ms)}"


def _ground(seen: Throughput, box: Box, time: Linear, span: Span, dark: Span | None) -> Markup:
    inside = _inside(seen, span)
    most = max((value for _, value in inside), default=0) / KIB
    values = Linear(0, rounded_up(max(1.0, most), 4), box.bottom, box.top)
    return fragment(
        rectangle(box, "panel"),
        value_axis(box, values, 4),
        veil(box, time, dark),
        _steps(inside, seen, box, time, values),
    )


def _inside(seen: Throughput, span: Span) -> list[tuple[float, int]]:
    """The steps that lie wholly or partly in `span`, as (begin in s, bytes)."""
    step_s = seen.step_ms / 1e3
    steps = ((seen.start_s + number * step_s, size) for number, size in enumerate(seen.bytes))
    return [(at_s, size) for at_s, size in steps if at_s + step_s > span.start_s and at_s < span.end_s]


def _steps(inside: list[tuple[float, int]], seen: Throughput, box: Box, time: Linear, values: Linear) -> Markup:
    """Draw each step as long as it took; of more than there are pixels, the extremes of each column."""
    if not inside:
        return Markup("")
    if len(inside) > box.width / 2:
        points = thin_line([(at_s, size / KIB) for at_s, size in inside], time.low, time.high, int(box.width))
        return path("M" + "L".join(f"{time(at_s):.1f} {values(size):.1f}" for at_s, size in points), "client-line")
    corners = "".join(
        f"{'L' if number else 'M'}{time(at_s):.1f} {values(size / KIB):.1f}H{time(at_s + seen.step_ms / 1e3):.1f}"
        for number, (at_s, size) in enumerate(inside)
    )
    return path(corners, "client-line")


def _measures(report: Report, outage: Outage, box: Box, time: Linear) -> Markup:
    parts = []
    dark = blackout_span(report)
    if dark is not None:
        text = f"blackout {words.milliseconds(report.blackout_ms)}"
        parts.append(measure(time(dark.start_s), time(dark.end_s), box.top - 31, text, room=box, kind="dark"))
    start_s, length_ms = outage.silence_start_s, outage.longest_silence_ms
    if start_s is not None and length_ms is not None and time.low <= start_s <= time.high:
        text = f"stall {words.milliseconds(length_ms)}"
        parts.append(
            measure(time(start_s), time(start_s + length_ms / 1e3), box.top - 12, text, room=box, kind="client")
        )
    return fragment(parts)
