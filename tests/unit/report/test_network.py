"""The network's part of the report, in words."""

from __future__ import annotations

from typing import Any

import pytest

from bascule.report.network import Network, announced, arrival, read_network

SILENT = {"mac": "52:54:00:77:00:33", "verified_ms": None, "why": "nobody sent it anything"}
HEARD = {"mac": "52:54:00:77:00:32", "verified_ms": 0.8}


def network(**row: Any) -> Network:
    return read_network({"state": "seen", "announcements": 3, "announced_frames": 9, "at_source_after_run": 0} | row)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"verified_ms": 1.23, "clock": "h2"},
            "follows the VM: seen 1.2\N{NO-BREAK SPACE}ms after it ran (h2's clock)",
        ),
        ({"state": "watching", "why": "too early"}, "not known yet when this was written"),
        ({"state": "not seen", "why": "nobody spoke."}, "not seen to follow the VM: nobody spoke"),
        (
            {"state": "not seen", "why": "nobody spoke", "nics": [HEARD, SILENT]},
            "not seen to follow the VM at 52:54:00:77:00:33: nobody spoke",
        ),
        ({"state": "not seen", "why": "nobody spoke", "nics": [SILENT]}, "not seen to follow the VM: nobody spoke"),
    ],
)
def test_the_arrival_is_told_in_one_sentence(row: dict[str, Any], told: str) -> None:
    assert arrival(network(**row)) == told


def test_what_still_came_to_the_source_is_counted() -> None:
    assert announced(network()) == "announced 3 times in 9 frames; no frame came to the source any more"
    assert announced(network(at_source_after_run=None)) == "announced 3 times in 9 frames"
    told = announced(network(at_source_after_run=1200, at_source_for_ms=210))
    assert "1,200 frames still came to the source, the last within 210" in told


def test_what_others_wrote_is_read_as_far_as_it_makes_sense() -> None:
    read = read_network({"state": None, "verified_ms": "fast", "nics": [{"addresses": "many"}, 7]})
    assert (read.state, read.verified_ms, read.at_source_after_run, len(read.nics)) == ("", None, None, 1)
    assert arrival(read).startswith("not seen")
