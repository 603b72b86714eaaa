"""The report of one move, schema 1: the same record as JSON, and as frozen dataclasses for those who read it.

Field names are the JSON's keys, units included. A move that was refused, failed or cancelled lacks parts: they are
null in the JSON, None or empty here. Keys that this version doesn't know are passed over.

All `at_s`, `start_s` and `silence_start_s` count seconds from the move's start; `start_ms` counts from STOP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from bascule.errors import Refused
from bascule.report import reading
from bascule.report.frames import Frames, read_frames
from bascule.report.network import Network, read_network
from bascule.report.throughput import Throughput, read_throughput

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Goals:
    """What was asked for."""

    max_blackout_ms: float | None
    deadline_s: float | None


@dataclass(frozen=True, slots=True)
class Round:
    """One pass of the copy; `remaining_bytes` is what was left at its end, because it was dirtied meanwhile."""

    number: int
    start_s: float
    duration_s: float
    sent_bytes: int
    remaining_bytes: int
    rate_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Bytes:
    """What was sent, by kind, all in bytes. `zero_pages` is memory that was empty, and went as a mark only."""

    total: int
    normal_pages: int
    zero_pages: int
    other: int
    transferred_in_blackout: int | None


@dataclass(frozen=True, slots=True)
class BlackoutPart:
    """One part of the blackout; `clock` says whose clock measured it: source, destination or both."""

    phase: str
    start_ms: float
    ms: float
    clock: str


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened from STOP on: `at_ms` after it on the source's clock, read from `clock`.

    `clock` is source, destination or client; `error_ms` is how wrong the two clocks' comparison may be.
    """

    what: str
    at_ms: float
    clock: str
    error_ms: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was expected of the whole move, `made_at_s` after its start."""

    made_at_s: float | None
    total_s: float | None
    blackout_ms: float | None


@dataclass(frozen=True, slots=True)
class ForecastError:
    """By how many percent the outcome missed the forecast, as the agent computed it."""

    total_percent: float | None
    blackout_percent: float | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the copy while it ran."""

    at_s: float
    remaining_bytes: float | None
    transferred_bytes: float | None
    rate_bytes_per_s: float | None


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at one moment: STOP, RESUME, an announcement, a phase's begin."""

    at_s: float
    what: str


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of the move."""

    phase: str
    start_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class Outage:
    """What a client saw. A sample is (when it was sent, its round trip in ms or None when it was lost).

    `others` are what further clients saw of the same move, without their samples. Of a bulk stream, whose probes are
    pieces of any size, `throughput` is what came back of it, and the longest silence its stall.
    """

    probe: str
    target: str
    probe_hz: float | None
    sent: int
    lost: int
    duplicated: int
    reordered: int
    longest_silence_ms: float | None
    rtt_median_ms: float | None
    rtt_p90_ms: float | None
    rtt_p99_ms: float | None
    rtt_p999_ms: float | None
    rtt_max_ms: float | None
    samples: tuple[tuple[float, float | None], ...]
    silence_start_s: float | None
    note: str
    last_answer_before_run_s: float | None = None
    first_answer_after_run_s: float | None = None
    others: tuple[Outage, ...] = ()
    throughput: Throughput | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One move."""

    schema: int
    id: str
    vm: str
    source: str
    destination: str
    mode: str
    outcome: str
    reason: str
    started_at: str
    total_s: float | None
    goals: Goals | None
    accelerator: str
    memory_mib: float | None
    rounds: tuple[Round, ...]
    bytes: Bytes | None
    blackout_ms: float | None
    blackout_error_ms: float
    blackout_basis: str
    blackout: tuple[BlackoutPart, ...]
    moments: tuple[Moment, ...]
    forecast: Forecast | None
    forecast_error: ForecastError | None
    timeline: tuple[Reading, ...]
    marks: tuple[Mark, ...]
    phases: tuple[Phase, ...]
    network: Network | None
    frames: Frames | None
    outage: Outage | None
    belongs_to: str = ""  # the host that has the VM at the end, if that is known

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Read a report.

        Raises:
            Refused: another schema, whose figures could mean something else.
        """
        schema = data.get("schema", SCHEMA)
        if schema != SCHEMA:
            raise Refused(
                f"cannot read report {reading.text(data, 'id') or 'without an id'}: it has schema {schema},"
                f" and this Bascule knows schema {SCHEMA}",
                remedy="Use the version of Bascule that wrote it, or a newer one.",
            )
        goals, sent, forecast = (reading.part(data, key) for key in ("goals", "bytes", "forecast"))
        error, network, frames, outage = (
            reading.part(data, key) for key in ("forecast_error", "network", "frames", "outage")
        )
        return cls(
            schema=SCHEMA,
            id=reading.text(data, "id"),
            vm=reading.text(data, "vm"),
            source=reading.text(data, "source"),
            destination=reading.text(data, "destination"),
            mode=reading.text(data, "mode"),
            outcome=reading.text(data, "outcome"),
            reason=reading.text(data, "reason"),
            started_at=reading.text(data, "started_at"),
            total_s=reading.number(data, "total_s"),
            goals=Goals(*_numbers(goals, "max_blackout_ms", "deadline_s")) if goals else None,
            accelerator=reading.text(data, "accelerator"),
            memory_mib=reading.number(data, "memory_mib"),
            rounds=tuple(_round(row) for row in reading.rows(data, "rounds")),
            bytes=_bytes(sent) if sent else None,
            blackout_ms=reading.number(data, "blackout_ms"),
            blackout_error_ms=reading.amount(data, "blackout_error_ms"),
            blackout_basis=reading.text(data, "blackout_basis"),
            blackout=tuple(_blackout_part(row) for row in reading.rows(data, "blackout")),
            moments=tuple(_moment(row) for row in reading.rows(data, "moments")),
            forecast=Forecast(*_numbers(forecast, "made_at_s", "total_s", "blackout_ms")) if forecast else None,
            forecast_error=ForecastError(*_numbers(error, "total_percent", "blackout_percent")) if error else None,
            timeline=tuple(_reading(row) for row in reading.rows(data, "timeline")),
            marks=tuple(
                Mark(reading.amount(row, "at_s"), reading.text(row, "what")) for row in reading.rows(data, "marks")
            ),
            phases=tuple(_phase(row) for row in reading.rows(data, "phases")),
            network=read_network(network) if network else None,
            frames=read_frames(frames) if frames else None,
            outage=_outage(outage) if outage else None,
            belongs_to=reading.text(data, "belongs_to"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Write the report as its JSON object."""
        written: dict[str, Any] = _plain(self)
        return written


def as_report(report: Report | Mapping[str, Any]) -> Report:
    """Give `report` as a Report, reading it first when it is still JSON."""
    return report if isinstance(report, Report) else Report.from_dict(report)


def _numbers(data: Mapping[str, Any], *keys: str) -> list[float | None]:
    return [reading.number(data, key) for key in keys]


def _round(row: Mapping[str, Any]) -> Round:
    return Round(
        number=reading.count(row, "number"),
        start_s=reading.amount(row, "start_s"),
        duration_s=reading.amount(row, "duration_s"),
        sent_bytes=reading.count(row, "sent_bytes"),
        remaining_bytes=reading.count(row, "remaining_bytes"),
        rate_bytes_per_s=reading.amount(row, "rate_bytes_per_s"),
    )


def _bytes(row: Mapping[str, Any]) -> Bytes:
    in_blackout = reading.number(row, "transferred_in_blackout")
    return Bytes(
        total=reading.count(row, "total"),
        normal_pages=reading.count(row, "normal_pages"),
        zero_pages=reading.count(row, "zero_pages"),
        other=reading.count(row, "other"),
        transferred_in_blackout=None if in_blackout is None else int(in_blackout),
    )


def _blackout_part(row: Mapping[str, Any]) -> BlackoutPart:
    return BlackoutPart(
        phase=reading.text(row, "phase"),
        start_ms=reading.amount(row, "start_ms"),
        ms=reading.amount(row, "ms"),
        clock=reading.text(row, "clock"),
    )


def _moment(row: Mapping[str, Any]) -> Moment:
    return Moment(
        what=reading.text(row, "what"),
        at_ms=reading.amount(row, "at_ms"),
        clock=reading.text(row, "clock"),
        error_ms=reading.amount(row, "error_ms"),
    )


def _reading(row: Mapping[str, Any]) -> Reading:
    remaining, transferred, rate = _numbers(row, "remaining_bytes", "transferred_bytes", "rate_bytes_per_s")
    return Reading(reading.amount(row, "at_s"), remaining, transferred, rate)


def _phase(row: Mapping[str, Any]) -> Phase:
    return Phase(reading.text(row, "phase"), reading.amount(row, "start_s"), reading.amount(row, "duration_s"))


def _outage(row: Mapping[str, Any]) -> Outage:
    return Outage(
        probe=reading.text(row, "probe"),
        target=reading.text(row, "target"),
        probe_hz=reading.number(row, "probe_hz"),
        sent=reading.count(row, "sent"),
        lost=reading.count(row, "lost"),
        duplicated=reading.count(row, "duplicated"),
        reordered=reading.count(row, "reordered"),
        longest_silence_ms=reading.number(row, "longest_silence_ms"),
        rtt_median_ms=reading.number(row, "rtt_median_ms"),
        rtt_p90_ms=reading.number(row, "rtt_p90_ms"),
        rtt_p99_ms=reading.number(row, "rtt_p99_ms"),
        rtt_p999_ms=reading.number(row, "rtt_p999_ms"),
        rtt_max_ms=reading.number(row, "rtt_max_ms"),
        samples=tuple(reading.pairs(row, "samples")),
        silence_start_s=reading.number(row, "silence_start_s"),
        note=reading.text(row, "note"),
        others=tuple(_outage({**other, "others": ()}) for other in reading.rows(row, "others")),
        last_answer_before_run_s=reading.number(row, "last_answer_before_run_s"),
        first_answer_after_run_s=reading.number(row, "first_answer_after_run_s"),
        throughput=read_throughput(stream) if (stream := reading.part(row, "throughput")) else None,
    )


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
