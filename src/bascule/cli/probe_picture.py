"""A client's round trips as lines of text: a picture for the terminal.

    10 ms ┤       ⣾
          │       ⣿
   0.2 ms ┤⣀⣠⣀⣄⣀⣀⣀⣿⣀⣀⣀
no answer │       █            what was lost (and, until the answer time-out, what still may come)
own gaps  │            ▂       when this machine kept the probe from its work
  stopped │      ━━            when the vCPUs stood still, where that is known
            3 s ago       now

Each column of dots stands for one stretch of time and reaches from its shortest to its longest round trip, on a
logarithmic scale. Lines are lists of (text, style), so that a test reads them and rich colours them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bascule.cli.braille import DOTS_WIDE, bars
from bascule.network.probe.columns import Column
from bascule.report.scale import Logarithmic, log_bounds
from bascule.report.throughput import level
from bascule.report.words import short_time

LABEL_COLUMNS = 11
LEAST_MS = 0.001
TRIPS, LOST, WAITING, OWN, STILL, AXIS = "cyan", "bold red", "yellow", "yellow", "magenta", "dim"

Line = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of time in which the VM's vCPUs stood still, on the columns' clock."""

    start_s: float
    end_s: float


def dots_in(width: int) -> int:
    """How many columns a picture of `width` characters shows."""
    return DOTS_WIDE * max(1, width - LABEL_COLUMNS)


def picture(
    columns: Sequence[Column],
    *,
    width: int,
    rows: int,
    length_s: float,
    marks: Sequence[Mark] | None = None,
    ends: tuple[str, str] = ("", ""),
) -> list[Line]:
    """Draw `columns`, each `length_s` long, the newest at the right edge; `ends` are written under the edges.

    `rows` are those of the round trips. `marks` None: nothing is known of the vCPUs, and their line is left out.
    """
    shown = columns[-dots_in(width) :]
    cells = width - LABEL_COLUMNS
    blank: list[Column | None] = [None] * (dots_in(width) - len(shown))
    padded = blank + list(shown)
    lines = _trips(padded, rows)
    pairs = [padded[place : place + DOTS_WIDE] for place in range(0, len(padded), DOTS_WIDE)]
    lines.append([_label("no answer"), *_no_answer(pairs)])
    own = [_share([(one.own_ms / 1e3, length_s) for one in pair if one]) for pair in pairs]
    lines.append([_label("own gaps"), ("".join(map(level, own)), OWN)])
    if marks is not None:
        still = "".join("━" if _is_marked(pair, marks, length_s) else " " for pair in pairs)
        lines.append([_label("stopped"), (still, STILL)])
    lines.append([(" " * LABEL_COLUMNS + ends[0] + ends[1].rjust(cells - len(ends[0])), AXIS)])
    return lines


def _trips(columns: Sequence[Column | None], rows: int) -> list[Line]:
    trips = [trip for one in columns if one for trip in (one.low_ms, one.high_ms) if trip is not None]
    low, high = log_bounds(max(LEAST_MS, min(trips, default=0.1)), max(LEAST_MS, max(trips, default=1.0)))
    scale = Logarithmic(low, high, 0.0, 1.0)
    spans = [
        (scale(one.low_ms), scale(one.high_ms)) if one and one.low_ms is not None and one.high_ms is not None else None
        for one in columns
    ]
    drawn = bars(spans, rows)
    labels = {0: short_time(high), rows - 1: short_time(low)}
    return [[_label(labels.get(row, ""), is_tick=row in labels), (text, TRIPS)] for row, text in enumerate(drawn)]


def _no_answer(pairs: Sequence[Sequence[Column | None]]) -> Line:
    """Red where something is lost, yellow where it may still come; neighbours of one style in one piece."""
    pieces: Line = []
    for pair in pairs:
        lost = _share([(one.lost, one.sent) for one in pair if one])
        waiting = _share([(one.waiting, one.sent) for one in pair if one])
        style = LOST if lost else WAITING
        text = level(max(lost, waiting))
        if pieces and (pieces[-1][1] == style or text == " "):
            pieces[-1] = pieces[-1][0] + text, pieces[-1][1]
        else:
            pieces.append((text, style))
    return pieces


def _share(parts: Sequence[tuple[float, float]]) -> float:
    whole = sum(of for _, of in parts)
    return sum(part for part, _ in parts) / whole if whole else 0.0


def _is_marked(pair: Sequence[Column | None], marks: Sequence[Mark], length_s: float) -> bool:
    return any(
        one.start_s < mark.end_s and one.start_s + length_s > mark.start_s for one in pair if one for mark in marks
    )


def _label(text: str, *, is_tick: bool = False) -> tuple[str, str]:
    return f"{text:>{LABEL_COLUMNS - 2}} {'┤' if is_tick else '│'}", AXIS
