from __future__ import annotations

import click
import pytest

from bascule.cli.options import DURATION


@pytest.mark.parametrize(
    ("text", "seconds"), [("50ms", 0.05), ("1.5s", 1.5), ("10m", 600.0), ("2h", 7200.0), ("0.5ms", 0.0005)]
)
def test_durations(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "50", "ms", "-1s", "1 s", "1d", "1e3s", "nan", "0s", "0ms", "5s\n"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)
