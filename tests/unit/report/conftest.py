"""Made-up moves, as like real ones as their figures allow: each is a fresh report JSON, the same at every call."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

MIB = 1 << 20


def live(**changes: Any) -> dict[str, Any]:
    """A live move of a guest that rewrites memory, with a client at 1 kHz."""
    stop_s, blackout_ms, total_s = 2.1312, 14.2, 2.31
    rounds, timeline = _rounds()
    report = _base("m-7f3a", vm="web", way=("h1", "h2"), mode="live", outcome="completed") | {
        "reason": "one more round would not have shortened the blackout",
        "total_s": total_s,
        "rounds": rounds,
        "bytes": {
            "total": 1_342_177_280,
            "normal_pages": 1_306_525_696,
            "zero_pages": 37_748_736,
            "other": 2_621_440,
            "transferred_in_blackout": 7_340_032,
        },
        "blackout_ms": blackout_ms,
        "blackout_error_ms": 0.3,
        "blackout_basis": "QEMU's STOP on the source's clock to QEMU's RESUME on the destination's clock,"
        " which was +0.012 ms ahead, give or take 0.300 ms",
        "blackout": [
            {"phase": "last pages counted", "start_ms": 0.0, "ms": 1.6, "clock": "source"},
            {"phase": "last memory, device state and load", "start_ms": 1.6, "ms": 8.8, "clock": "both"},
            {"phase": "source completes", "start_ms": 10.4, "ms": 0.3, "clock": "both"},
            {"phase": "word to the destination", "start_ms": 10.7, "ms": 0.7, "clock": "both"},
            {"phase": "decision", "start_ms": 11.4, "ms": 0.4, "clock": "destination"},
            {"phase": "run", "start_ms": 11.8, "ms": 2.4, "clock": "destination"},
        ],
        "moments": [
            {"what": "STOP", "at_ms": 0.0, "clock": "source", "error_ms": 0.0},
            {"what": "last pages counted", "at_ms": 1.6, "clock": "source", "error_ms": 0.0},
            {"what": "state loaded", "at_ms": 10.4, "clock": "destination", "error_ms": 0.3},
            {"what": "source completed", "at_ms": 10.7, "clock": "source", "error_ms": 0.0},
            {"what": "word heard", "at_ms": 11.4, "clock": "destination", "error_ms": 0.3},
            {"what": "decision durable", "at_ms": 11.8, "clock": "destination", "error_ms": 0.3},
            {"what": "RESUME", "at_ms": 14.2, "clock": "destination", "error_ms": 0.3},
            {"what": "first frame out", "at_ms": 36.0, "clock": "destination", "error_ms": 0.3},
            {"what": "first answer at the client", "at_ms": 38.0, "clock": "client", "error_ms": 0.0},
        ],
        "forecast": {"made_at_s": 0.31, "total_s": 2.1, "blackout_ms": 12.0},
        "forecast_error": {"total_percent": 10.0, "blackout_percent": 18.3},
        "timeline": timeline,
        "marks": [
            {"at_s": 0.0, "what": "checking"},
            {"at_s": 0.31, "what": "copying"},
            {"at_s": stop_s, "what": "STOP"},
            {"at_s": stop_s + 0.0011, "what": "announcement"},
            {"at_s": stop_s + blackout_ms / 1e3, "what": "RESUME"},
        ],
        "phases": [
            {"phase": "checking", "start_s": 0.0, "duration_s": 0.12},
            {"phase": "preparing", "start_s": 0.12, "duration_s": 0.19},
            {"phase": "copying", "start_s": 0.31, "duration_s": 1.82},
            {"phase": "switching-over", "start_s": 2.13, "duration_s": 0.012},
            {"phase": "deciding", "start_s": 2.142, "duration_s": 0.004},
            {"phase": "releasing", "start_s": 2.146, "duration_s": 0.164},
        ],
        "network": {
            "state": "seen",
            "verified_ms": 1.234,
            "clock": "h2",
            "why": "",
            "announcements": 2,
            "announced_frames": 6,
            "at_source_after_run": 0,
            "at_source_for_ms": 0.0,
            "nics": [{"mac": "52:54:00:77:00:32", "addresses": 2, "verified_ms": 1.234, "why": ""}],
        },
        "frames": {"carried": 2, "waited": 11, "found_back": 1, "late": 0, "lost": 0, "why": ""},
        "outage": outage(start_s=-0.55, end_s=2.86, stop_s=stop_s, silence_ms=38.0),
    }
    return report | changes


def quick(**changes: Any) -> dict[str, Any]:
    """A Quick Migration with a blackout of 3 s, which loses everything that the client sends meanwhile."""
    stop_s, blackout_ms, total_s = 0.42, 3061.0, 3.72
    report = _base("m-91c0", vm="web", way=("h1", "h2"), mode="quick", outcome="completed") | {
        "total_s": total_s,
        "rounds": [_round(1, 0.45, 1.6, 1_050_000_000, 0)],
        "bytes": {
            "total": 1_050_000_000,
            "normal_pages": 1_048_576_000,
            "zero_pages": 24_985_600,
            "other": 1_400_000,
            "transferred_in_blackout": 1_050_000_000,
        },
        "blackout_ms": blackout_ms,
        "blackout_error_ms": 0.0,
        "blackout_basis": "",
        "blackout": [
            {"phase": "stop", "start_ms": 0.0, "ms": 1.2, "clock": "source"},
            {"phase": "save", "start_ms": 1.2, "ms": 1640.0, "clock": "source"},
            {"phase": "check", "start_ms": 1641.2, "ms": 96.0, "clock": "destination"},
            {"phase": "load", "start_ms": 1737.2, "ms": 1310.5, "clock": "destination"},
            {"phase": "decision", "start_ms": 3047.7, "ms": 0.4, "clock": "destination"},
            {"phase": "run", "start_ms": 3048.1, "ms": 12.9, "clock": "destination"},
        ],
        "forecast": {"made_at_s": 0.3, "total_s": 4.4, "blackout_ms": 3900.0},
        "forecast_error": {"total_percent": -15.5, "blackout_percent": -21.5},
        "timeline": [
            {
                "at_s": 0.45 + 0.05 * step,
                "remaining_bytes": max(0, 1_050_000_000 - 33_000_000 * step),
                "transferred_bytes": 33_000_000 * step,
                "rate_bytes_per_s": 660e6 + 30e6 * (step % 3),
            }
            for step in range(33)
        ],
        "marks": [
            {"at_s": stop_s, "what": "STOP"},
            {"at_s": stop_s + blackout_ms / 1e3, "what": "RESUME"},
            {"at_s": stop_s + blackout_ms / 1e3 + 0.001, "what": "announcement"},
        ],
        "phases": [
            {"phase": "checking", "start_s": 0.0, "duration_s": 0.14},
            {"phase": "preparing", "start_s": 0.14, "duration_s": 0.28},
            {"phase": "saving", "start_s": 0.42, "duration_s": 1.64},
            {"phase": "restoring", "start_s": 2.06, "duration_s": 1.42},
            {"phase": "releasing", "start_s": 3.48, "duration_s": 0.24},
        ],
        "outage": outage(
            start_s=-0.5, end_s=4.2, stop_s=stop_s, silence_ms=3102.0, lost_ms=3071.0, note="TCP probe saw no reset"
        ),
    }
    return report | changes


def failed(**changes: Any) -> dict[str, Any]:
    """A live move that could not meet its goals before the deadline: rounds and a client, no blackout."""
    rounds = [_round(1, 0.4, 9.2, 1_073_741_824, 262_000_000)]
    rounds += [
        _round(number, 9.6 + 2.3 * (number - 2), 2.3, 260_000_000, 255_000_000 + 3_000_000 * (number % 3))
        for number in range(2, 10)
    ]
    report = _base("m-2b11", vm="db", way=("h2", "h3"), mode="live", outcome="failed") | {
        "reason": "the deadline of 28 s passed: 245 MiB were dirtied in each round, and 248 MiB could be sent in it.",
        "total_s": 28.3,
        "rounds": rounds,
        "timeline": [
            {
                "at_s": 0.4 + 0.2 * step,
                "remaining_bytes": _sawtooth(0.2 * step),
                "transferred_bytes": int(112e6 * 0.2 * step),
                "rate_bytes_per_s": 112e6 + 4e6 * (step % 5),
            }
            for step in range(139)
        ],
        "marks": [{"at_s": 0.4, "what": "copying"}, {"at_s": 28.0, "what": "deadline"}],
        "phases": [
            {"phase": "checking", "start_s": 0.0, "duration_s": 0.2},
            {"phase": "preparing", "start_s": 0.2, "duration_s": 0.2},
            {"phase": "copying", "start_s": 0.4, "duration_s": 27.6},
            {"phase": "withdrawing", "start_s": 28.0, "duration_s": 0.3},
        ],
        "forecast": {"made_at_s": 0.4, "total_s": 12.0, "blackout_ms": 90.0},
        "outage": outage(start_s=-0.5, end_s=28.8, stop_s=None, silence_ms=6.0),
    }
    return report | changes


def cancelled(**changes: Any) -> dict[str, Any]:
    """A live move that somebody stopped in its first round; nobody watched as a client."""
    report = _base("m-55ad", vm="web", way=("h2", "h3"), mode="live", outcome="cancelled") | {
        "reason": "cancelled by the user in round 1",
        "total_s": 1.2,
        "rounds": None,
        "timeline": [
            {
                "at_s": 0.3 + 0.1 * step,
                "remaining_bytes": (1000 - 70 * step) * MIB,
                "transferred_bytes": 70 * MIB * step,
                "rate_bytes_per_s": None,
            }
            for step in range(8)
        ],
        "marks": [{"at_s": 1.05, "what": "cancel asked"}],
        "phases": [{"phase": "copying", "start_s": 0.3, "duration_s": 0.75}],
    }
    return report | changes


def refused(**changes: Any) -> dict[str, Any]:
    """A move that pre-flight turned down: every part is null."""
    report = _base("m-0d4e", vm="web", way=("h1", "h9"), mode="live", outcome="refused") | {
        "reason": "h9 is not in the list of hosts; known are h1, h2 and h3",
        "total_s": 0.08,
    }
    return report | changes


def unknown(**changes: Any) -> dict[str, Any]:
    """A move cut off between completed and the decision."""
    report = _base("m-cc02", vm="web", way=("h1", "h2"), mode="live", outcome="unknown") | {
        "reason": "h2 stopped answering after the VM's state was sent; look with `bascule vm list` on h2",
        "total_s": 9.0,
    }
    return report | changes


def crowded(samples: int) -> dict[str, Any]:
    """A live move of 100 s with `samples` round trips, one lost frame among them and one of 900 ms."""
    report = live(total_s=100.0)
    outage_ = report["outage"]
    source = random.Random(7)
    outage_["samples"] = [[100.0 * index / samples, round(source.uniform(0.2, 2), 3)] for index in range(samples)]
    outage_["samples"][samples // 3][1] = None
    outage_["samples"][samples // 2][1] = 900.0
    return report


def outage(
    *,
    start_s: float,
    end_s: float,
    stop_s: float | None,
    silence_ms: float,
    lost_ms: float = 0.0,
    note: str = "",
) -> dict[str, Any]:
    """What a client at 1 kHz saw: noise, and from `stop_s` on a wait of `silence_ms`, the first part of it lost."""
    source = random.Random(3)
    samples: list[list[float | None]] = []
    for index in range(int((end_s - start_s) * 1000)):
        at_s = start_s + index / 1000
        trip_ms = source.lognormvariate(-1.1, 0.35) + (source.expovariate(0.2) if source.random() < 0.004 else 0)
        since_ms = (at_s - stop_s) * 1e3 if stop_s is not None else -1.0
        lost = 0 <= since_ms < lost_ms
        if 0 <= since_ms < silence_ms:
            trip_ms += silence_ms - since_ms
        samples.append([round(at_s, 6), None if lost else round(trip_ms, 3)])
    trips = sorted(trip for _, trip in samples if trip is not None)
    return {
        "probe": "UDP echo",
        "target": "10.77.0.50",
        "probe_hz": 1000,
        "sent": len(samples),
        "lost": sum(trip is None for _, trip in samples),
        "duplicated": 0,
        "reordered": 0,
        "longest_silence_ms": silence_ms,
        "rtt_median_ms": trips[len(trips) // 2],
        "rtt_p90_ms": trips[len(trips) * 90 // 100],
        "rtt_p99_ms": trips[len(trips) * 99 // 100],
        "rtt_p999_ms": trips[len(trips) * 999 // 1000],
        "rtt_max_ms": trips[-1],
        "samples": samples,
        "silence_start_s": stop_s,
        "note": note,
        "others": [],
        "last_answer_before_run_s": stop_s,
        "first_answer_after_run_s": None if stop_s is None else stop_s + silence_ms / 1e3,
        "throughput": None,
    }


def bulk(
    *, stop_s: float | None = 2.1312, silence_ms: float = 38.0, end_s: float = 2.86, **changes: Any
) -> dict[str, Any]:
    """What a bulk stream saw: 200 KiB in each 10 ms, and from `stop_s` on nothing for a while."""
    seen = outage(start_s=-0.5, end_s=end_s, stop_s=stop_s, silence_ms=silence_ms)
    starts = [-0.5 + number / 100 for number in range(round((end_s + 0.5) * 100))]
    dark = (stop_s, stop_s + silence_ms / 1e3) if stop_s is not None else (0.0, 0.0)
    sizes = [0 if dark[0] <= at_s and at_s + 0.01 <= dark[1] else 204_800 for at_s in starts]
    stream = {"start_s": -0.5, "step_ms": 10.0, "bytes": sizes, "total_bytes": sum(sizes)}
    return seen | {"probe": "bulk TCP", "target": "10.77.0.50:7", "throughput": stream} | changes


def _base(move: str, *, vm: str, way: tuple[str, str], mode: str, outcome: str) -> dict[str, Any]:
    return {
        "schema": 1,
        "id": move,
        "vm": vm,
        "source": way[0],
        "destination": way[1],
        "mode": mode,
        "outcome": outcome,
        "reason": "",
        "belongs_to": "",
        "started_at": "2026-03-04T09:12:44Z",
        "total_s": None,
        "goals": {"max_blackout_ms": 100.0, "deadline_s": 600.0},
        "accelerator": "tcg",
        "memory_mib": 1024,
        "rounds": [],
        "bytes": None,
        "blackout_ms": None,
        "blackout_error_ms": 0.0,
        "blackout_basis": "",
        "blackout": None,
        "moments": None,
        "forecast": None,
        "forecast_error": None,
        "timeline": None,
        "marks": None,
        "phases": None,
        "network": None,
        "frames": None,
        "outage": None,
    }


def _round(number: int, start_s: float, duration_s: float, sent: int, remaining: int) -> dict[str, Any]:
    return {
        "number": number,
        "start_s": round(start_s, 4),
        "duration_s": duration_s,
        "sent_bytes": sent,
        "remaining_bytes": remaining,
        "rate_bytes_per_s": sent / duration_s,
    }


def _rounds() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Five rounds that shrink, and a reading every 25 ms."""
    rounds, timeline, start_s, sent_before = [], [], 0.31, 0
    shape = ((1.31, 1024, 196), (0.27, 196, 61), (0.12, 61, 24), (0.06, 24, 9.5), (0.06, 9.5, 7))
    for number, (duration_s, to_send_mib, left_mib) in enumerate(shape, 1):
        to_send, left = int(to_send_mib * MIB), int(left_mib * MIB)
        rounds.append(_round(number, start_s, duration_s, to_send, left))
        steps = max(2, int(duration_s / 0.025))
        for step in range(steps):
            share = step / steps
            timeline.append(
                {
                    "at_s": round(start_s + share * duration_s, 4),
                    "remaining_bytes": int(to_send * (1 - share)),
                    "transferred_bytes": sent_before + int(to_send * share),
                    "rate_bytes_per_s": to_send / duration_s * (1 + 0.08 * ((step * 7) % 5 - 2) / 2),
                }
            )
        sent_before += to_send
        start_s += duration_s
    return rounds, timeline


def _sawtooth(at_s: float) -> int:
    if at_s < 9.2:
        return int(1_073_741_824 * (1 - at_s / 9.2))
    return int(260_000_000 * (1 - ((at_s - 9.2) % 2.3) / 2.3))


@pytest.fixture(scope="session")
def moves() -> SimpleNamespace:
    """Give the makers of made-up moves: moves.live(), moves.refused(vm="…"), ..."""
    return SimpleNamespace(
        live=live,
        quick=quick,
        failed=failed,
        cancelled=cancelled,
        refused=refused,
        unknown=unknown,
        crowded=crowded,
        bulk=bulk,
        everything=lambda: [live(), quick(), failed(), cancelled(), refused(), unknown()],
    )
