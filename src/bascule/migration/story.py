"""From what was observed of a move to its report.

The source's agent notes what it sees, with times it read from clocks that it names; `report` puts it together. No
number here is measured across two clocks without saying so: the blackout's parts carry the clock they were read from,
and where source and destination are compared, the estimated offset of their clocks and its error are stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bascule.migration.convergence import Round
from bascule.migration.forecast import Forecast, percent_off
from bascule.migration.model import Mode, Move, Outcome

SCHEMA = 1
THERE = ("asked_there", "loaded", "decided", "resumed", "first_frame")
MOMENTS = {
    "stopped": "STOP",
    "counted": "last pages counted",
    "saved": "state saved",
    "loaded": "state loaded",
    "completed": "source completed",
    "asked_there": "word heard",
    "decided": "decision durable",
    "resumed": "RESUME",
    "first_frame": "first frame out",
}
FIRST_ANSWER = "first answer at the client"
MOST_SAMPLES = 2000  # a longer copy is sampled more coarsely: a picture has no more columns
MOST_MARKS = 200


@dataclass(slots=True)
class SwitchoverTimes:
    """Readings of wall clocks in microseconds; `destination_ahead_us` brings the destination's to the source's.

    Source's clock: `stopped` (QEMU's STOP), `counted` (the first MIGRATION_PASS after it: QEMU has counted the pages
    that were still dirty, and sends them now), `saved` (the state of a Quick Migration is durable), `completed`.
    Destination's clock: `asked_there` (the word arrived), `loaded`, `decided`, `resumed` (QEMU's RESUME), `first_frame`
    (out of the VM's tap, after that).

    QEMU does not tell when the last memory has gone: its status `device`, where it has one, is said before it.
    """

    stopped: int | None = None
    counted: int | None = None
    saved: int | None = None
    completed: int | None = None
    asked_there: int | None = None
    loaded: int | None = None
    decided: int | None = None
    resumed: int | None = None
    first_frame: int | None = None
    destination_ahead_us: float = 0.0
    error_us: float = 0.0

    def steps(self, quick: bool) -> list[tuple[str, float, str]]:
        """Return (what ended here, when in source microseconds, whose clock), in the order in which they happen."""
        if quick:
            order: tuple[str, ...] = ("saved", "asked_there", "loaded", "decided", "resumed")
            names: tuple[str, ...] = ("save", "word to the destination", "load", "decision", "run")
        else:
            order = ("counted", "loaded", "completed", "asked_there", "decided", "resumed")
            send = "last memory, device state and load"
            names = ("last pages counted", send, "source completes", "word to the destination", "decision", "run")
        found = []
        for attribute, name in zip(order, names, strict=True):
            at_us: int | None = getattr(self, attribute)
            if at_us is None:
                continue
            there = attribute in THERE
            found.append((name, at_us - (self.destination_ahead_us if there else 0.0), "there" if there else "here"))
        return found

    def moments(self, quick: bool) -> list[dict[str, Any]]:
        """Return what happened from STOP on: by which clock, when on the source's, and how wrong that may be."""
        if self.stopped is None:
            return []
        found = []
        for attribute, what in MOMENTS.items():
            at_us: int | None = getattr(self, attribute)
            if at_us is None or (attribute == "completed" and quick):
                continue
            there = attribute in THERE
            shift_us, error_us = (self.destination_ahead_us, self.error_us) if there else (0.0, 0.0)
            found.append(
                {
                    "what": what,
                    "at_ms": round((at_us - shift_us - self.stopped) / 1000, 3),
                    "clock": "destination" if there else "source",
                    "error_ms": round(error_us / 1000, 3),
                }
            )
        return sorted(found, key=lambda moment: moment["at_ms"])


@dataclass(slots=True)
class Story:
    """One move as its source saw it. All `_s` are seconds since the move's start on the source's monotonic clock."""

    move: Move
    started_at: str
    accelerator: str
    memory_mib: int
    forecast: Forecast | None = None
    rounds: tuple[Round, ...] = ()
    times: SwitchoverTimes = field(default_factory=SwitchoverTimes)
    timeline: list[dict[str, float]] = field(default_factory=list)
    marks: list[dict[str, Any]] = field(default_factory=list)
    phases: list[tuple[str, float]] = field(default_factory=list)
    blackout_bytes: int | None = None
    transferred_bytes: int = 0
    normal_pages: int = 0
    zero_pages: int = 0
    page_bytes: int = 4096
    network: dict[str, Any] | None = None  # whether the network follows; of the agents, see `bascule.report.record`
    frames: Mapping[str, Any] | None = None  # what became of the frames that came while the VM stood still

    def phase(self, name: str, at_s: float) -> None:
        """Note that a phase began."""
        if not self.phases or self.phases[-1][0] != name:
            self.phases.append((name, at_s))

    def mark(self, what: str, at_s: float) -> None:
        """Note a moment that the pictures show. What is tried again for days is not noted each time."""
        if len(self.marks) >= MOST_MARKS:
            return
        self.marks.append({"at_s": round(at_s, 6), "what": what})

    def sample(self, at_s: float, remaining_bytes: int, transferred_bytes: int) -> float:
        """Note how far the copy is. Return the rate since the last sample, in bytes a second."""
        rate = 0.0
        self.transferred_bytes = max(self.transferred_bytes, transferred_bytes)
        if self.timeline:
            last = self.timeline[-1]
            passed_s = at_s - last["at_s"]
            if passed_s < 0.005:
                return last["rate_bytes_per_s"]
            rate = max(0.0, (transferred_bytes - last["transferred_bytes"]) / passed_s)
        self.timeline.append(
            {
                "at_s": round(at_s, 4),
                "remaining_bytes": remaining_bytes,
                "transferred_bytes": transferred_bytes,
                "rate_bytes_per_s": round(rate),
            }
        )
        if len(self.timeline) > MOST_SAMPLES:
            del self.timeline[1:-1:2]
        return rate

    def blackout_ms(self) -> float | None:
        """STOP on the source to RESUME on the destination, on the source's clock."""
        times = self.times
        if times.stopped is None or times.resumed is None:
            return None
        return (times.resumed - times.destination_ahead_us - times.stopped) / 1000

    def report(self, outcome: Outcome, reason: str, total_s: float, belongs_to: str | None = None) -> dict[str, Any]:
        """Put the record together. `belongs_to`: the host that has the VM at the end, None if that is not known."""
        move = self.move
        blackout_ms = self.blackout_ms() if outcome is Outcome.COMPLETED else None
        return {
            "schema": SCHEMA,
            "id": move.id,
            "vm": move.vm,
            "source": move.source,
            "destination": move.destination,
            "mode": move.mode.value,
            "outcome": outcome.value,
            "reason": reason,
            "belongs_to": belongs_to,
            "started_at": self.started_at,
            "total_s": round(total_s, 4),
            "goals": {"max_blackout_ms": move.goals.max_blackout_ms, "deadline_s": move.goals.deadline_s},
            "accelerator": self.accelerator,
            "memory_mib": self.memory_mib,
            "rounds": [self._round(r) for r in self.rounds],
            "bytes": self._bytes(),
            "blackout_ms": None if blackout_ms is None else round(blackout_ms, 3),
            "blackout_error_ms": round(self.times.error_us / 1000, 3),
            "blackout_basis": "QEMU's STOP on the source's clock to QEMU's RESUME on the destination's clock, "
            f"which was {self.times.destination_ahead_us / 1000:+.3f} ms ahead, give or take "
            f"{self.times.error_us / 1000:.3f} ms",
            "blackout": self._blackout_parts() if blackout_ms is not None else [],
            "moments": self.times.moments(move.mode is Mode.QUICK) if blackout_ms is not None else [],
            "forecast": self._forecast(),
            "forecast_error": self._forecast_error(total_s, blackout_ms),
            "timeline": self.timeline,
            "marks": self.marks,
            "phases": self._phases(total_s),
            "network": self.network,
            "frames": self.frames,
            "outage": None,
        }

    def _round(self, ended: Round) -> dict[str, Any]:
        return {
            "number": ended.number,
            "start_s": round(ended.start_s, 4),
            "duration_s": round(ended.duration_s, 4),
            "sent_bytes": ended.sent_bytes,
            "remaining_bytes": ended.remaining_bytes,
            "rate_bytes_per_s": round(ended.rate_bytes_per_s),
        }

    def _bytes(self) -> dict[str, Any]:
        return {
            "total": self.transferred_bytes,
            "normal_pages": self.normal_pages * self.page_bytes,
            "zero_pages": self.zero_pages * self.page_bytes,
            "other": max(0, self.transferred_bytes - self.normal_pages * self.page_bytes),
            "transferred_in_blackout": self.blackout_bytes,
        }

    def _blackout_parts(self) -> list[dict[str, Any]]:
        at_us = float(self.times.stopped or 0)
        clock = "here"
        parts = []
        for name, seen_us, whose in self.times.steps(self.move.mode is Mode.QUICK):
            ended_us = max(seen_us, at_us)  # the clocks' error may turn two near moments round
            parts.append(
                {
                    "phase": name,
                    "start_ms": round((at_us - (self.times.stopped or 0)) / 1000, 3),
                    "ms": round((ended_us - at_us) / 1000, 3),
                    "clock": _clock(clock, whose),
                }
            )
            at_us, clock = ended_us, whose
        return parts

    def _forecast(self) -> Mapping[str, Any] | None:
        if self.forecast is None:
            return None
        return {
            "made_at_s": 0.0,
            "total_s": round(self.forecast.total_s, 3),
            "blackout_ms": round(self.forecast.blackout_ms, 2),
        }

    def _forecast_error(self, total_s: float, blackout_ms: float | None) -> Mapping[str, Any] | None:
        if self.forecast is None or blackout_ms is None:
            return None
        return {
            "total_percent": percent_off(self.forecast.total_s, total_s),
            "blackout_percent": percent_off(self.forecast.blackout_ms, blackout_ms),
        }

    def _phases(self, total_s: float) -> list[dict[str, Any]]:
        return [
            {"phase": name, "start_s": round(at_s, 4), "duration_s": round(max(0.0, end_s - at_s), 4)}
            for (name, at_s), (_, end_s) in pairwise([*self.phases, ("", total_s)])
        ]


def with_outage(report: dict[str, Any], outage: dict[str, Any]) -> dict[str, Any]:
    """Return `report` with what a probe saw, and among the moments the client's first answer after the VM ran.

    That one was read from the probe's clock; a probe on the source's host has the source's.
    """
    first_s, stop_s = outage.get("first_answer_after_run_s"), _mark_s(report, "STOP")
    moments = [moment for moment in report.get("moments") or [] if moment.get("what") != FIRST_ANSWER]
    if moments and first_s is not None and stop_s is not None:
        at_ms = round((first_s - stop_s) * 1000, 3)
        moments.append({"what": FIRST_ANSWER, "at_ms": at_ms, "clock": "client", "error_ms": 0.0})
    return report | {"outage": outage, "moments": moments}


def run_s(report: Mapping[str, Any]) -> float | None:
    """When the VM ran on the destination, in s from the move's start on the source's clock; None if it did not."""
    stop_s, blackout_ms = _mark_s(report, "STOP"), report.get("blackout_ms")
    return None if stop_s is None or blackout_ms is None else float(stop_s + blackout_ms / 1000)


def _mark_s(report: Mapping[str, Any], what: str) -> float | None:
    return next((mark["at_s"] for mark in report.get("marks") or [] if mark["what"] == what), None)


def _clock(began: str, ended: str) -> str:
    if began != ended:
        return "both"
    return "source" if ended == "here" else "destination"
