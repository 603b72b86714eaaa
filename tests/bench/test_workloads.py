"""What a workload is called, and who answers its probe."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from harness.workloads import WORKLOADS


@pytest.mark.parametrize(
    ("name", "hz", "title", "native"),
    [
        ("idle", 1000, "idle, 1 kHz UDP echo", False),
        ("idle", 10_000, "idle, 10 kHz UDP echo", True),
        ("bulk", 200, "bulk TCP through the guest, 200 Hz UDP echo", False),
        ("ping10k", 2500, "idle, 2.5 kHz ICMP echo", False),
    ],
)
def test_the_title_says_the_rate_that_is_used(name: str, hz: float, title: str, native: bool) -> None:
    workload = replace(WORKLOADS[name], hz=hz)
    assert workload.title == title
    assert workload.native_echo == native
