"""The sentences that the text and the page share. Each tells one thing, in words that need no manual."""

from __future__ import annotations

from bascule.report import throughput, words
from bascule.report.moments import missed_percent
from bascule.report.record import Outage, Report

ACCELERATORS = {"tcg": "software emulation (TCG)", "kvm": "KVM"}


def headline(report: Report) -> str:
    """Tell the whole move in one sentence."""
    vm, source, destination = (words.visible(name) or "?" for name in (report.vm, report.source, report.destination))
    after = f" after {words.seconds(report.total_s)}" if report.total_s else ""
    reason = reason_of(report)
    because = f": {reason}" if reason else ""
    match report.outcome:
        case "completed":
            how = " by Quick Migration" if report.mode == "quick" else ""
            took = f" in {words.seconds(report.total_s)}" if report.total_s is not None else ""
            told = f"{vm} moved from {source} to {destination}{how}{took}"
        case "refused":
            told = f"{vm} was not moved from {source} to {destination}, and nothing changed{because}"
        case "cancelled":
            told = f"{vm} stays on {source}; its move to {destination} was cancelled{after}{because}"
        case "failed":
            stays = f"stays on {source}" if report.belongs_to in ("", report.source) else f"is not on {source} any more"
            told = f"{vm} {stays}; its move to {destination} failed{after}{because}"
        case _:
            told = (
                f"It cannot be told from here whether {vm} runs on {source} or on {destination}:"
                f" the move was cut off{after}{because}"
            )
    felt = "; ".join(_felt(report))
    if not felt:
        return told
    return f"{told}; {felt}" if report.outcome == "completed" else f"{told}. {felt[0].upper()}{felt[1:]}"


def _felt(report: Report) -> list[str]:
    felt = []
    if report.blackout_ms is not None:
        felt.append(f"its vCPUs stood still for {words.milliseconds(report.blackout_ms)}")
    if report.outage is not None:
        felt.append(client_loss(report.outage))
    return felt


def client_loss(outage: Outage) -> str:
    """Tell what the client lost and for how long it heard nothing; of a bulk stream, how much of it came back."""
    if outage.throughput is not None:
        return "; ".join(
            part for part in (_came_back(outage), throughput.stall(outage.longest_silence_ms, None)) if part
        )
    hz = f" at {words.frequency(outage.probe_hz)}" if outage.probe_hz else ""
    told = f"a client{hz} lost {outage.lost:,} of {outage.sent:,}"
    if outage.longest_silence_ms is not None:
        told += f" and heard nothing for {words.milliseconds(outage.longest_silence_ms)} at worst"
    return told


def _came_back(outage: Outage) -> str:
    seen = throughput.amount(outage.throughput) if outage.throughput is not None else ""
    missing = f", and {words.counted(outage.lost, 'piece')} never came back" if outage.lost else ""
    return f"of a client's bulk TCP stream {seen}{missing}"


def reason_of(report: Report) -> str:
    """Give the reason as one line without its full stop."""
    return words.visible(report.reason).rstrip(".")


def blackout_length(report: Report) -> str:
    """Give the blackout with its error: 14.2 ms ± 0.3 ms."""
    error = f" ± {words.milliseconds(report.blackout_error_ms)}" if report.blackout_error_ms > 0 else ""
    return f"{words.milliseconds(report.blackout_ms)}{error}"


def goal_kept(report: Report) -> str:
    """Tell whether the blackout kept what was asked for; empty where nothing was asked or measured.

    A Quick Migration promises no bound, so none is held against it.
    """
    if report.goals is None or report.goals.max_blackout_ms is None or report.mode == "quick":
        return ""
    asked = f"asked for at most {words.milliseconds(report.goals.max_blackout_ms)}"
    if report.blackout_ms is None:
        return asked
    return f"{asked}: {'kept' if report.blackout_ms <= report.goals.max_blackout_ms else 'not kept'}"


def forecast_lines(report: Report) -> list[str]:
    """Tell forecast against outcome, a line for each quantity that was forecast."""
    forecast = report.forecast
    if forecast is None:
        return []
    lines = []
    for name, expected, outcome, write in (
        ("total time", forecast.total_s, report.total_s, words.seconds),
        ("blackout", forecast.blackout_ms, report.blackout_ms, words.milliseconds),
    ):
        if expected is None:
            continue
        line = f"{name}: forecast {write(expected)}"
        if outcome is not None and report.outcome == "completed":
            missed = missed_percent(expected, outcome)
            line += f", was {write(outcome)}"
            line += f" ({words.percent(missed)})" if missed is not None else ""
        lines.append(line)
    return lines


def unaccounted_ms(report: Report) -> float:
    """Give how many ms of the blackout no part explains; 0 when that is within the error or under 2 percent."""
    if report.blackout_ms is None or not report.blackout:
        return 0.0
    covered, end = 0.0, 0.0
    for part in sorted(report.blackout, key=lambda part: part.start_ms):
        covered += max(0.0, part.start_ms + part.ms - max(end, part.start_ms))
        end = max(end, part.start_ms + part.ms)
    missing = report.blackout_ms - covered
    return missing if missing > max(0.1, report.blackout_error_ms, 0.02 * report.blackout_ms) else 0.0


def sent_lines(report: Report) -> list[str]:
    """Tell what was sent, by kind."""
    sent = report.bytes
    if sent is None:
        return []
    lines = [f"{words.memory(sent.total)} in all"]
    if sent.transferred_in_blackout is not None:
        lines.append(f"{words.memory(sent.transferred_in_blackout)} of it in the blackout")
    lines.append(f"by kind: pages with content {words.memory(sent.normal_pages)}")
    lines.append(f"other data {words.memory(sent.other)}")
    lines.append(f"empty pages {words.memory(sent.zero_pages)}, of which only a mark was sent")
    return lines


def accelerator(report: Report) -> str:
    """Name what ran the guest's instructions."""
    return ACCELERATORS.get(report.accelerator, words.visible(report.accelerator))


def goals_told(report: Report) -> str:
    """Tell what was asked for."""
    goals = report.goals
    if goals is None:
        return ""
    told = []
    if goals.max_blackout_ms is not None:
        told.append(f"a blackout of at most {words.milliseconds(goals.max_blackout_ms)}")
    if goals.deadline_s is not None:
        told.append(f"the end within {words.seconds(goals.deadline_s)}")
    return ", ".join(told)


def forecast_made(report: Report) -> str:
    """Tell when the forecast was made."""
    if report.forecast is None or report.forecast.made_at_s is None:
        return "The forecast of the whole move."
    if report.forecast.made_at_s < 0.001:
        return "The forecast was made at the move's start."
    return f"The forecast was made {words.seconds(report.forecast.made_at_s)} after the move's start."


def client_told(report: Report) -> str:
    """Tell what the client felt, in sentences, and what one must know to trust the figures; empty without a client."""
    if report.outage is None:
        return ""
    told, note = client_loss(report.outage), words.visible(report.outage.note)
    return f"{told[0].upper()}{told[1:]}.{f' {note}' if note else ''}"


def client_who(outage: Outage) -> str:
    """Tell what watched what, and how often: UDP echo to 10.77.0.50 at 1 kHz."""
    probe, target = words.visible(outage.probe), words.visible(outage.target)
    hz = f"at {words.frequency(outage.probe_hz)}" if outage.probe_hz and outage.throughput is None else ""
    return " ".join(part for part in (probe, f"to {target}" if target else "", hz) if part)


def client_counts(outage: Outage) -> str:
    """Count the client's frames; of a bulk stream, its bytes."""
    if outage.throughput is not None:
        lost = f", {words.counted(outage.lost, 'piece')} lost" if outage.lost else ""
        return throughput.amount(outage.throughput) + lost
    return (
        f"sent {outage.sent:,}, lost {outage.lost:,}, duplicated {outage.duplicated:,}, reordered {outage.reordered:,}"
    )


def client_trips(outage: Outage) -> str:
    """Sum up the client's round trips."""
    figures = (
        ("median", outage.rtt_median_ms),
        ("90 % within", outage.rtt_p90_ms),
        ("99 % within", outage.rtt_p99_ms),
        ("99.9 % within", outage.rtt_p999_ms),
        ("longest", outage.rtt_max_ms),
    )
    return ", ".join(f"{name} {words.short_time(value)}" for name, value in figures if value is not None)


def client_silence(outage: Outage) -> str:
    """Tell the longest silence and when it began; empty when nothing is known of one."""
    if outage.longest_silence_ms is None:
        return ""
    since = f" from {outage.silence_start_s:.3f} s on" if outage.silence_start_s is not None else ""
    name = "longest stall" if outage.throughput is not None else "longest silence"
    return f"{name} {words.milliseconds(outage.longest_silence_ms)}{since}"


def other_client(outage: Outage) -> str:
    """Sum up what a further client saw in one sentence without its full stop."""
    parts = (client_who(outage), client_counts(outage), client_silence(outage))
    return "; ".join(part for part in parts if part)
