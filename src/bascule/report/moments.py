"""What several renderings ask of a report: where the blackout lies in the move, and how far the forecast was off."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from bascule.report.record import BlackoutPart, Report


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, in seconds from the move's start."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Its length in seconds."""
        return self.end_s - self.start_s


def mark_s(report: Report, word: str) -> float | None:
    """Give the moment of the first mark that has `word` in it, in s from the move's start."""
    pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    return min((mark.at_s for mark in report.marks if pattern.search(mark.what)), default=None)


def blackout_span(report: Report) -> Span | None:
    """Give the blackout's place in the move.

    It starts at the STOP mark. Its length is the measured one; the RESUME mark, which may come from the other host's
    clock, serves only where no length was measured.
    """
    stop_s = mark_s(report, "STOP")
    if stop_s is None:
        return None
    if report.blackout_ms is not None:
        return Span(stop_s, stop_s + max(0.0, report.blackout_ms) / 1e3)
    resume_s = mark_s(report, "RESUME")
    return Span(stop_s, resume_s) if resume_s is not None and resume_s >= stop_s else None


AFTER_RUN = ("RESUME", "first frame out", "first answer at the client")


def after_run(report: Report) -> list[BlackoutPart]:
    """Give the parts of the client's silence beyond the blackout: until the VM's first frame, and until an answer."""
    known = {moment.what: moment for moment in report.moments}
    seen = [known[what] for what in AFTER_RUN if what in known]
    parts = []
    for began, ended in pairwise(seen if seen and seen[0].what == "RESUME" else ()):
        clock = ended.clock if ended.clock == began.clock else "both"
        parts.append(BlackoutPart(ended.what, began.at_ms, max(0.0, ended.at_ms - began.at_ms), clock))
    return parts


def silence_span(report: Report) -> Span | None:
    """Give the client's longest silence, where its start is known."""
    outage = report.outage
    if outage is None or outage.silence_start_s is None or outage.longest_silence_ms is None:
        return None
    return Span(outage.silence_start_s, outage.silence_start_s + max(0.0, outage.longest_silence_ms) / 1e3)


def move_span(report: Report) -> Span:
    """Give the time that a picture of the whole move has to show, the client's samples included."""
    ends = [0.0, report.total_s or 0.0]
    ends += [reading.at_s for reading in report.timeline]
    ends += [phase.start_s + phase.duration_s for phase in report.phases]
    ends += [round_.start_s + round_.duration_s for round_ in report.rounds]
    if report.outage is not None:
        ends += [at_s for at_s, _ in report.outage.samples]
        for outage in (report.outage, *report.outage.others):
            if outage.throughput is not None:
                ends += [outage.throughput.start_s, outage.throughput.end_s]
    return Span(min(ends), max(*ends, min(ends) + 1e-3))


def missed_percent(expected: float | None, outcome: float | None) -> float | None:
    """Give by how many percent `outcome` lies above (positive) or below what was expected."""
    if expected is None or outcome is None or expected <= 0:
        return None
    return (outcome / expected - 1) * 100
