"""When a VM's frames are too many to be watched for the whole of a copy: by their rate, however late a look is."""

from __future__ import annotations

import pytest

from bascule.agent.frames_out import too_many


@pytest.mark.parametrize(
    ("came", "passed_s", "expected"),
    [
        (100, 0.010, False),  # 10 kHz
        (1000, 0.100, False),  # 10 kHz, and a look that came late
        (2, 0.00001, False),  # two looks in a row
        (1000, 0.010, True),  # 100 kHz
        (10_000, 0.100, True),
    ],
)
def test_the_rate_counts_and_not_the_frames_of_one_look(came: int, passed_s: float, expected: bool) -> None:
    assert too_many(came, passed_s) is expected
