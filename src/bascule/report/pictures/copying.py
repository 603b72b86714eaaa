"""What was left to send and how fast it went, over the time of the move, with its phases and rounds."""

from __future__ import annotations

from bascule.report import words
from bascule.report.decimate import thin_line
from bascule.report.markup import Markup, element, fragment
from bascule.report.moments import Span, blackout_span, move_span
from bascule.report.pictures import NARROW
from bascule.report.pictures.canvas import Box, label, path, picture, rectangle, text_width
from bascule.report.pictures.plot import polyline, time_axis, time_grid, value_axis, veil, veil_name
from bascule.report.record import Report
from bascule.report.scale import Linear, rounded_up

MARGIN_LEFT = 52
ROUND_DOT_PX = 12  # rounds nearer than this to one another get smaller dots, and no figures
LEAST_ROUND_PX = 20  # a shorter round is told by its dot and the table
TITLE_PX = 138  # the name of the upper plot, and some air


def missing(report: Report) -> str:
    """Say why there is no such picture; empty when there is one."""
    if any(reading.remaining_bytes is not None for reading in report.timeline):
        return ""
    return "No memory was copied." if not report.rounds else "The course of the copy was not recorded."


def copy_picture(report: Report, key: str, width: int) -> Markup:
    """Draw phases, remaining memory and send rate above one another on one axis of time."""
    narrow = width <= NARROW
    left, inner = MARGIN_LEFT, width - MARGIN_LEFT - 14
    strip = Box(left, 4, inner, 18)
    remaining = Box(left, 64, inner, 150 if narrow else 190)
    rate = Box(left, remaining.bottom + 40, inner, 64 if narrow else 80)
    span = copy_span(report)
    time = Linear(span.start_s, span.end_s, left, left + inner)
    return picture(
        key,
        width,
        rate.bottom + 40,
        label(0, strip.top + 13, "phases", "tick"),
        phases_strip(report, strip, time),
        remaining_blackout(report, remaining, time),
        remaining_plot(report, remaining, time),
        rate_plot(report, rate, time),
        time_axis(rate, time, "seconds from the move's start"),
        title="Memory left to send, and the send rate, over the move",
        description=describe(report),
    )


def copy_span(report: Report) -> Span:
    """Give the time that this picture shows: the move without what the client saw before and after it."""
    whole = move_span(report)
    return Span(max(0.0, whole.start_s), report.total_s or whole.end_s)


def describe(report: Report) -> str:
    """Tell the picture to those who can't see it."""
    told = [
        f"Round {round_.number}: {words.memory(round_.sent_bytes)} sent in {words.seconds(round_.duration_s)}, "
        f"{words.memory(round_.remaining_bytes)} left."
        for round_ in report.rounds[:12]
    ]
    return " ".join(told) or "Memory left to send falls over time."


def phases_strip(report: Report, box: Box, time: Linear) -> Markup:
    """Draw the phases as a strip, each with its name where it is long enough."""
    parts = []
    for index, phase in enumerate(sorted(report.phases, key=lambda phase: phase.start_s)):
        start, end = time(phase.start_s), time(phase.start_s + phase.duration_s)
        tip = f"{phase.phase}: {words.seconds(phase.duration_s)}"
        parts.append(
            rectangle(Box(start, box.top, max(1.0, end - start), box.height), "panel" if index % 2 else "panel-2", tip)
        )
        if end - start >= text_width(phase.phase, 12) + 8:
            parts.append(label((start + end) / 2, box.top + 13, phase.phase, "tick mid"))
    return fragment(parts)


def remaining_plot(report: Report, box: Box, time: Linear) -> Markup:
    """Draw the remaining memory with its rounds, the blackout and an axis in MiB or GiB."""
    points = [(row.at_s, row.remaining_bytes) for row in report.timeline if row.remaining_bytes is not None]
    most = max([1.0, *(value for _, value in points), *(float(round_.remaining_bytes) for round_ in report.rounds)])
    unit, name = (words.GIB, "GiB") if most >= 4 * words.GIB else (words.MIB, "MiB")
    top = rounded_up(most / unit, 6)
    values = Linear(0, top, box.bottom, box.top)
    thinned = thin_line(sorted(points), time.low, time.high, int(box.width))
    line = [(time(at_s), values(value / unit)) for at_s, value in thinned]
    area = (
        path(
            f"M{line[0][0]:.1f} {box.bottom:.1f}L"
            + " ".join(f"{x:.1f} {y:.1f}" for x, y in line)
            + f"L{line[-1][0]:.1f} {box.bottom:.1f}Z",
            "copy-area",
        )
        if line
        else ""
    )
    return fragment(
        _round_grounds(report, box, time),
        value_axis(box, values, 6),
        time_grid(box, time),
        area,
        veil(box, time, blackout_span(report)),
        polyline(line, "copy-line"),
        _round_ends(report, box, time, values, unit),
        label(box.left - MARGIN_LEFT + 2, box.top - 11, f"{name} left to send", "copy strong halo"),
    )


def remaining_blackout(report: Report, box: Box, time: Linear) -> Markup:
    """Name the blackout above `box`, beside the plot's own name."""
    text = f"blackout {words.milliseconds(report.blackout_ms)}"
    return veil_name(box, time, blackout_span(report), text, box.left - MARGIN_LEFT + TITLE_PX)


def _round_grounds(report: Report, box: Box, time: Linear) -> Markup:
    parts: list[Markup] = []
    free_from = box.left
    for round_ in report.rounds:
        start, end = time(round_.start_s), time(round_.start_s + round_.duration_s)
        if end - start < 1:
            continue
        if round_.number % 2:
            parts.append(rectangle(Box(start, box.top, end - start, box.height), "panel"))
        for text in (f"round {round_.number}", f"{round_.number}"):
            half = text_width(text, 12) / 2
            centre = (start + end) / 2
            if end - start >= 2 * half + 4 and centre - half >= free_from:
                parts.append(label(centre, box.top + 14, text, "tick mid"))
                free_from = centre + half + 4
                break
    return fragment(parts)


def _round_ends(report: Report, box: Box, time: Linear, values: Linear, unit: int) -> Markup:
    """Mark what was left at each round's end, and write the figure where there is room, at the last one first."""
    if len(report.rounds) * ROUND_DOT_PX > box.width:
        return _crowded_round_ends(report, time, values, unit)
    parts: list[Markup] = []
    taken: list[Box] = []
    for index, round_ in enumerate(reversed(report.rounds)):
        start_x, x = time(round_.start_s), time(round_.start_s + round_.duration_s)
        y = values(round_.remaining_bytes / unit)
        text = words.memory(round_.remaining_bytes)
        tip = element("title", f"left after round {round_.number}: {text}")
        parts.append(element("circle", tip, cx=x, cy=y, r=3, class_="copy"))
        if index and x - start_x < LEAST_ROUND_PX:
            continue
        width = text_width(text, 12)
        start = x + 5 if x + 5 + width <= box.right else x - width - 5
        place = Box(start - 2, max(box.top + 18, y - 20), width + 4, 14)
        if not any(_overlap(place, other) for other in taken):
            taken.append(place)
            parts.append(label(start, place.bottom - 2, text, "tick halo"))
    return fragment(parts)


def _crowded_round_ends(report: Report, time: Linear, values: Linear, unit: int) -> Markup:
    ends = sorted((round_.start_s + round_.duration_s, round_.remaining_bytes / unit) for round_ in report.rounds)
    kept = thin_line(ends, time.low, time.high, int(time.end - time.start))
    return path("".join(f"M{time(at_s):.1f} {values(value):.1f}h.1" for at_s, value in kept), "copy-speck")


def _overlap(one: Box, other: Box) -> bool:
    return one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom


def rate_plot(report: Report, box: Box, time: Linear) -> Markup:
    """Draw the send rate in MiB/s."""
    points = [
        (row.at_s, row.rate_bytes_per_s / words.MIB) for row in report.timeline if row.rate_bytes_per_s is not None
    ]
    name = label(box.left - MARGIN_LEFT + 2, box.top - 11, "MiB/s sent", "copy strong")
    if not points:
        return fragment(name, label(box.left + 8, box.top + 20, "no rate was recorded", "muted"))
    values = Linear(0, rounded_up(max(value for _, value in points) or 1.0, 3), box.bottom, box.top)
    thinned = thin_line(sorted(points), time.low, time.high, int(box.width))
    return fragment(
        value_axis(box, values, 3),
        time_grid(box, time),
        veil(box, time, blackout_span(report)),
        polyline([(time(at_s), values(value)) for at_s, value in thinned], "rate-line"),
        name,
    )
