"""The page of the comparison, where it draws what came back of a bulk stream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from harness.peers_page import bulk_curves


def move(stall_ms: float, sizes: list[int]) -> dict[str, Any]:
    stream = {"start_s": 0.0, "step_ms": 10.0, "bytes": sizes, "total_bytes": sum(sizes)}
    return {"stall_ms": stall_ms, "stall_start_s": 0.1, "throughput": stream}


def test_each_row_shows_its_middle_move_around_the_stall() -> None:
    rows = {
        "bascule": [move(30, [9] * 10 + [0] * 3 + [9] * 9), move(10, [9] * 22), move(90, [9] * 10 + [0] * 9 + [9] * 3)],
        "raw": [{"stall_ms": None, "stall_start_s": None, "throughput": None}],
    }
    (head, title, told, drawn, stall, end) = bulk_curves(rows, {})
    assert "middle move" in head
    assert (title, drawn, stall, end) == ("Bascule", "█" * 10 + "   " + "█" * 9, " " * 10 + "==== stall", "```")
    assert "bytes per 10" in told


def test_other_workloads_have_none() -> None:
    assert bulk_curves({"bascule": [{"stall_ms": 3.0}]}, {}) == []
