"""What a move will cost, said before it and scored after it.

The forecast plays the move through: the first round sends the memory that the guest has touched, each later one what
the guest dirties meanwhile, and the same steering that will decide in earnest decides when to stop. What it needs to
know comes from earlier moves between hosts like these: the bandwidth, the time around the copy, the blackout of
nothing, and, if this VM was moved before, how much it dirtied in how long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from bascule.migration.convergence import Reading, Steering
from bascule.migration.model import Goals, Mode

MOST_ROUNDS = 60
SURE = 3  # so many moves have to say that nothing is faster before a promise is refused for it
FEW = 5  # this many of the newest moves count
TROUBLE_PERCENT = 900.0  # a blackout that missed its forecast by more than this met a fault: it is not what moves take


@dataclass(frozen=True, slots=True)
class Experience:
    """What earlier moves taught. The defaults are a cautious first guess and are replaced by the first real move.

    `fixed_ms` is the least that a blackout took beyond its memory: a busy host makes it longer, nothing shorter.
    `curve` holds points (seconds, unique bytes dirtied in them) of this VM, if it was moved before.
    """

    bandwidth_bytes_per_s: float = 300e6
    around_s: float = 0.6
    fixed_ms: float = 15.0
    curve: tuple[tuple[float, float], ...] = ()

    def dirtied_in(self, duration_s: float) -> float:
        """Read the curve: unique bytes dirtied in `duration_s`."""
        points = [(0.0, 0.0), *sorted(self.curve)]
        for (t0, v0), (t1, v1) in pairwise(points):
            if t0 <= duration_s < t1:
                return v0 + (v1 - v0) * (duration_s - t0) / (t1 - t0)
        return max(v for _, v in points)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The move's total time in seconds and the blackout in ms. `fits` is False if the promise is not in sight."""

    total_s: float
    blackout_ms: float
    fits: bool = True


def learn(reports: Iterable[Mapping[str, Any]], vm: str, mode: Mode) -> Experience:
    """Learn from the reports of completed moves, newest first.

    Other outcomes and modes are passed over, moves that were not seen as a whole (their agent was restarted), and those
    that met trouble: after one of them the next would be refused, for a promise that it could keep. But if all have,
    and they are not few, that is what moves take there.
    """
    completed = [r for r in reports if r.get("outcome") == "completed" and r.get("blackout_ms") is not None]
    relevant = [r for r in completed if r.get("mode") == mode.value]
    newest = [r for r in relevant if not _met_trouble(r)][:FEW] or (relevant if len(relevant) >= FEW else [])[:FEW]
    rates = [rate for r in newest if (rate := _bandwidth(r)) > 0]
    around = [_around_s(r) for r in newest]
    fixed = [ms for r in newest if (ms := _fixed_ms(r)) is not None]
    default = Experience()
    mine = next((r for r in relevant if r.get("vm") == vm), None)
    curve = tuple((x["duration_s"], float(x["remaining_bytes"])) for x in mine.get("rounds", ())) if mine else ()
    return Experience(
        bandwidth_bytes_per_s=median(rates) if rates else default.bandwidth_bytes_per_s,
        around_s=median(around) if around else default.around_s,
        fixed_ms=min(fixed if len(fixed) >= SURE else [*fixed, default.fixed_ms]),
        curve=curve,
    )


def _met_trouble(report: Mapping[str, Any]) -> bool:
    percent = (report.get("forecast_error") or {}).get("blackout_percent")
    return percent is not None and float(percent) > TROUBLE_PERCENT


def _bandwidth(report: Mapping[str, Any]) -> float:
    rounds: Sequence[Mapping[str, Any]] = report.get("rounds") or ()
    if rounds:
        return float(rounds[0]["rate_bytes_per_s"])
    total = (report.get("bytes") or {}).get("total") or 0
    blackout_s = (report.get("blackout_ms") or 0) / 1000
    return total / blackout_s if blackout_s > 0 else 0.0


def _around_s(report: Mapping[str, Any]) -> float:
    copied_s = sum(float(r["duration_s"]) for r in report.get("rounds") or ())
    if report.get("mode") == Mode.QUICK.value:
        copied_s = float(report.get("blackout_ms") or 0) / 1000
    return max(0.0, float(report["total_s"]) - copied_s)


def _fixed_ms(report: Mapping[str, Any]) -> float | None:
    """Blackout less the time that its memory took at the copy's bandwidth.

    None for a Quick Migration, whose bandwidth is that of the whole sleep.
    """
    if report.get("blackout_ms") is None or report.get("mode") == Mode.QUICK.value:
        return None
    bandwidth = max((float(r["rate_bytes_per_s"]) for r in report.get("rounds") or ()), default=0.0)
    sent = (report.get("bytes") or {}).get("transferred_in_blackout") or 0
    memory_ms = 1000.0 * sent / bandwidth if bandwidth else 0.0
    return max(1.0, float(report["blackout_ms"]) - memory_ms)


def predict(mode: Mode, goals: Goals, touched_bytes: int, experience: Experience) -> Forecast:
    """Play the move through. `touched_bytes` is the guest memory that has to be sent at least once."""
    bandwidth = experience.bandwidth_bytes_per_s
    if mode is Mode.QUICK:
        asleep_s = touched_bytes / bandwidth + experience.fixed_ms / 1000
        return Forecast(asleep_s + experience.around_s, asleep_s * 1000)
    steering = Steering(goals.max_blackout_ms, experience.fixed_ms).begun(Reading(0.0, touched_bytes, 0, bandwidth))
    at_s, sent, volume = 0.0, 0.0, float(touched_bytes)
    for _ in range(MOST_ROUNDS):
        duration_s = volume / bandwidth
        at_s, sent = at_s + duration_s, sent + volume
        volume = experience.dirtied_in(duration_s)
        steering = steering.round_ended(Reading(at_s, int(volume), int(sent), bandwidth))
        advice = steering.advise()
        if advice.switch:
            total_s = at_s + advice.forecast_ms / 1000 + experience.around_s
            return Forecast(total_s, advice.forecast_ms)
        if at_s > goals.deadline_s:
            break
    return Forecast(goals.deadline_s, steering.blackout_ms(volume), fits=False)


def percent_off(forecast: float, real: float) -> float | None:
    """Return by how many percent the forecast missed what came (positive: it came worse)."""
    return 100.0 * (real - forecast) / forecast if forecast > 0 else None
