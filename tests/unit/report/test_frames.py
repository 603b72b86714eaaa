"""The report's part on the frames of the blackout, in words."""

from __future__ import annotations

from typing import Any

import pytest

from bascule.report.frames import read_frames, told

COUNTS = {"carried": 3, "waited": 1200, "found_back": 0, "late": 0, "lost": 0, "why": ""}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({}, "1,200 waited for the VM, 3 were carried to it; none lost"),
        ({"found_back": 2}, "1,200 waited for the VM, 3 were carried to it, 2 of them found back; none lost"),
        (
            {"why": "the taps cannot be watched: no memory"},
            "1,200 waited for the VM, 3 were carried to it; none known to be lost, but not all could be watched: "
            "the taps cannot be watched: no memory",
        ),
        ({"late": 1}, "1,200 waited for the VM, 3 were carried to it, 1 too late for their order; none lost"),
        (
            {"lost": 7, "why": "7 found the tap on h2 full."},
            "1,200 waited for the VM, 3 were carried to it; 7 lost: 7 found the tap on h2 full",
        ),
    ],
)
def test_what_became_of_the_frames_is_told_in_one_sentence(row: dict[str, Any], sentence: str) -> None:
    assert told(read_frames(COUNTS | row)) == sentence


def test_what_others_wrote_is_read_as_far_as_it_makes_sense() -> None:
    read = read_frames({"carried": "many", "lost": None, "why": 7})
    assert (read.carried, read.lost) == (0, 0)
