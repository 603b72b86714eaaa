"""Forecast against outcome: two short bars for the total time, two for the blackout, and what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bascule.report import words
from bascule.report.markup import Markup, fragment
from bascule.report.moments import missed_percent
from bascule.report.pictures import NARROW
from bascule.report.pictures.canvas import Box, label, path, picture, rectangle, text_width
from bascule.report.record import Report
from bascule.report.scale import Linear

ROW_PX = 20
GROUP_PX = 78
NAMES_PX = 66
BAR_PX = 14
MOST_GOAL = 4


@dataclass(frozen=True, slots=True)
class Compared:
    """One quantity as it was forecast, as it came, and the most that was asked for."""

    name: str
    forecast: float
    outcome: float | None
    goal: float | None
    write: Callable[[float | None], str]


def missing(report: Report) -> str:
    """Say why there is no such picture; empty when there is one."""
    return "" if compared(report) else "No forecast was made."


def compared(report: Report) -> list[Compared]:
    """Give what was forecast. Only a completed move has an outcome to hold against it."""
    forecast, goals = report.forecast, report.goals
    if forecast is None:
        return []
    done = report.outcome == "completed"
    found = []
    if forecast.total_s is not None:
        asked = goals.deadline_s if goals else None
        found.append(Compared("total time", forecast.total_s, report.total_s if done else None, asked, words.seconds))
    if forecast.blackout_ms is not None:
        asked = goals.max_blackout_ms if goals and report.mode != "quick" else None
        outcome = report.blackout_ms if done else None
        found.append(Compared("blackout", forecast.blackout_ms, outcome, asked, words.milliseconds))
    return found


def forecast_picture(report: Report, key: str, width: int) -> Markup:
    """Draw the quantities side by side, or under one another where it is narrow."""
    found = compared(report)
    narrow = width <= NARROW
    across = 1 if narrow else len(found)
    each = (width - 28 * (across - 1)) / across
    groups = [
        _group(quantity, Box((each + 28) * (index % across), GROUP_PX * (index // across), each, GROUP_PX))
        for index, quantity in enumerate(found)
    ]
    return picture(
        key,
        width,
        GROUP_PX * (len(found) if narrow else 1),
        groups,
        title="Forecast against outcome",
        description=" ".join(
            f"{one.name}: forecast {one.write(one.forecast)}, outcome {one.write(one.outcome)}." for one in found
        ),
    )


def _group(one: Compared, box: Box) -> Markup:
    longest = max(one.forecast, one.outcome or 0.0)
    # a goal far off would press the bars together; the words above them tell it anyway
    goal = one.goal if one.goal is not None and one.goal <= MOST_GOAL * longest else None
    left = box.left + NAMES_PX
    room = max(text_width(_outcome_text(one)), text_width(one.write(one.forecast))) + 12
    scale = Linear(0, max(longest, goal or 0.0) or 1.0, left, max(left + 40, box.right - room))
    goal_x = scale(goal) if goal is not None else None
    first, second = Box(box.left, box.top + 24, 0, BAR_PX), Box(box.left, box.top + 24 + ROW_PX, 0, BAR_PX)
    if one.outcome is None:
        outcome = fragment(
            label(box.left, second.top + 11, "outcome", "tick"),
            label(left, second.top + 12, _outcome_text(one), "muted"),
        )
    else:
        outcome = _bar("outcome", _outcome_text(one), second, (left, scale(one.outcome)), goal_x)
    stem = ROW_PX if one.outcome is None else 2 * ROW_PX
    return fragment(
        label(box.left, box.top + 14, one.name, "strong"),
        _asked(one, box),
        _bar("forecast", one.write(one.forecast), first, (left, scale(one.forecast)), goal_x),
        outcome,
        path(f"M{goal_x:.1f} {first.top - 3:.1f}v{stem:.1f}", "goal") if goal_x is not None else "",
    )


def _asked(one: Compared, box: Box) -> Markup:
    if one.goal is None:
        return Markup("")
    missed = one.outcome is not None and one.outcome > one.goal
    text = f"asked: at most {one.write(one.goal)}" + (", not kept" if missed else "")
    return label(box.left + text_width(one.name) * 1.1 + 14, box.top + 14, text, "lost" if missed else "muted")


def _outcome_text(one: Compared) -> str:
    if one.outcome is None:
        return "none: the move was not completed"
    missed = missed_percent(one.forecast, one.outcome)
    return one.write(one.outcome) + (f" ({words.percent(missed)})" if missed is not None else "")


def _bar(name: str, value: str, line: Box, ends: tuple[float, float], goal_x: float | None) -> Markup:
    """Draw a bar with its value after it; a value that the goal's line would cross stands behind that line."""
    bar = Box(ends[0], line.top, max(1.5, ends[1] - ends[0]), line.height)
    x = bar.right + 6
    if goal_x is not None and bar.right <= goal_x <= x + text_width(value):
        x = goal_x + 6
    return fragment(
        label(line.left, line.top + 11, name, "tick"),
        rectangle(bar, "hollow" if name == "forecast" else "dark"),
        label(x, line.top + 12, value, "halo"),
    )
