"""The report as plain lines for terminals and logs, none longer than 96 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from bascule.report import frames, network, sentences, throughput, words
from bascule.report.moments import after_run, blackout_span
from bascule.report.record import BlackoutPart, Outage, Report, Round, as_report

COLUMNS = 96
LABEL_COLUMNS = 10
BAR_COLUMNS = 24
PHASE_COLUMNS = 36
PLAIN = str.maketrans({words.GLUE: " ", words.MINUS: "-", words.NONE: "-"})  # so that one can search a log


def render_text(report: Report | Mapping[str, Any]) -> str:
    """Tell one move in plain text: the headline, then what there is to tell, part by part.

    Control characters in names and reasons are written out, so that the text is safe for a terminal.

    Raises:
        Refused: the report has another schema.
    """
    move = as_report(report)
    blocks = [
        _wrapped(f"{sentences.headline(move)}."),
        [line for label, told in _facts(move) for line in _labelled(label, told)],
        _rounds(move),
        _blackout(move),
        [line for label, told in _judgement(move) for line in _labelled(label, told)],
        *_bulk(move),
    ]
    return ("\n\n".join("\n".join(block) for block in blocks if block) + "\n").translate(PLAIN)


def _wrapped(told: str) -> list[str]:
    return textwrap.wrap(told, COLUMNS, break_on_hyphens=False)


def _labelled(label: str, told: str) -> list[str]:
    return textwrap.wrap(
        told,
        COLUMNS,
        initial_indent=f"{label:<{LABEL_COLUMNS}}",
        subsequent_indent=" " * LABEL_COLUMNS,
        break_on_hyphens=False,
    )


def _facts(move: Report) -> Iterator[tuple[str, str]]:
    started = f"started {words.visible(move.started_at)}" if move.started_at else ""
    yield "Move", _joined(words.visible(move.id), words.visible(move.mode), words.visible(move.outcome), started)
    guest = _joined(words.memory(move.memory_mib * words.MIB) if move.memory_mib else "", sentences.accelerator(move))
    if guest:
        yield "Guest", guest
    reason = sentences.reason_of(move)
    if reason and move.outcome == "completed":  # otherwise the headline has told it
        yield "Reason", reason
    sent = sentences.sent_lines(move)
    if sent:
        yield "Sent", ", ".join(sent)


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _rounds(move: Report) -> list[str]:
    if not move.rounds:
        return []
    head = f"{'Rounds':<{LABEL_COLUMNS}}{'start':>9}{'duration':>11}{'sent':>13}{'remaining':>13}{'rate':>15}"
    return [head, *(_round_line(round_) for round_ in move.rounds)]


def _round_line(round_: Round) -> str:
    cells = (
        f"{round_.start_s:.2f} s",
        f"{round_.duration_s:.2f} s",
        words.memory(round_.sent_bytes),
        words.memory(round_.remaining_bytes),
        words.rate(round_.rate_bytes_per_s),
    )
    number = f"{round_.number:>6}"
    return f"{number:<{LABEL_COLUMNS}}" + "".join(
        f"{cell:>{width}}" for cell, width in zip(cells, (9, 11, 13, 13, 15), strict=True)
    )


def _blackout(move: Report) -> list[str]:
    if move.blackout_ms is None and not move.blackout:
        return []
    lines = _labelled("Blackout", _joined(sentences.blackout_length(move), sentences.goal_kept(move)))
    if move.blackout_basis:
        lines += _labelled("", words.visible(move.blackout_basis))
    after = after_run(move)
    end_ms = max([move.blackout_ms or 0.0, *(part.start_ms + part.ms for part in (*move.blackout, *after))])
    lines += [_part_line(part, end_ms) for part in move.blackout]
    if after:
        lines += _labelled("After it", "the VM runs, and the client waits on")
        lines += [_part_line(part, end_ms) for part in after]
    missing_ms = sentences.unaccounted_ms(move)
    if missing_ms:
        lines.append(f"{'':{LABEL_COLUMNS}}{words.milliseconds(missing_ms)} of it are not accounted for")
    return lines


def _part_line(part: BlackoutPart, end_ms: float) -> str:
    phase = textwrap.shorten(words.visible(part.phase), PHASE_COLUMNS, placeholder="...")[:PHASE_COLUMNS]
    clock = words.visible(part.clock)[:11]
    return (
        f"{'':{LABEL_COLUMNS}}{phase:<{PHASE_COLUMNS}}{words.milliseconds(part.ms):>10}  |{_bar(part, end_ms)}| {clock}"
    )


def _bar(part: BlackoutPart, end_ms: float) -> str:
    """Draw where in the blackout the part lies; the shortest still gets one character."""
    if end_ms < 1e-6:  # nothing took any time
        return " " * BAR_COLUMNS
    start = min(BAR_COLUMNS - 1, max(0, int(part.start_ms / end_ms * BAR_COLUMNS)))
    length = max(1, round(part.ms / end_ms * BAR_COLUMNS))
    return f"{' ' * start}{'=' * min(length, BAR_COLUMNS - start)}".ljust(BAR_COLUMNS)


def _judgement(move: Report) -> Iterator[tuple[str, str]]:
    forecast = sentences.forecast_lines(move)
    if forecast:
        yield "Forecast", "; ".join(forecast)
    if move.network is not None:
        yield "Network", _joined(network.arrival(move.network), network.announced(move.network))
    if move.frames is not None:
        yield "Frames", frames.told(move.frames)
    if move.outage is None:
        yield "Client", "no client was watching: nothing is known of the outage"
    else:
        yield from _outage(move.outage)


def _outage(outage: Outage) -> Iterator[tuple[str, str]]:
    yield "Client", _joined(sentences.client_who(outage), sentences.client_counts(outage))
    trips = sentences.client_trips(outage)
    told = _joined(sentences.client_silence(outage), f"round trips: {trips}" if trips else "")
    if told:
        yield "", told
    if outage.note:
        yield "", words.visible(outage.note)
    for other in outage.others:
        yield "", sentences.other_client(other)


def _bulk(move: Report) -> Iterator[list[str]]:
    """Draw what came back of each bulk stream around the blackout."""
    dark = blackout_span(move)
    for outage in (move.outage, *move.outage.others) if move.outage is not None else ():
        if outage.throughput is not None:
            told = throughput.stall(outage.longest_silence_ms, move.blackout_ms)
            drawn = throughput.line_picture(
                outage.throughput, (dark.start_s, dark.end_s) if dark else None, COLUMNS - LABEL_COLUMNS
            )
            yield _labelled("Bulk TCP", told) + [f"{'':{LABEL_COLUMNS}}{line}" for line in drawn]
