"""The demo, as a newcomer runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bascule.lab.removal import known_labs

pytestmark = pytest.mark.lab


@contextmanager
def demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A running demo; a test that fails midway ends it as a user would, so that its lab goes too."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "bascule.lab.demo", *options],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            process.communicate()
            raise


def test_the_demo(tmp_path: Path) -> None:
    before = set(known_labs())
    with demo(tmp_path, "--json", "all.json", "--html", "all.html", "--memory", "512") as process:
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    reports = json.loads((tmp_path / "all.json").read_text())
    assert [(r["source"], r["destination"], r["mode"], r["outcome"]) for r in reports] == [
        ("h1", "h2", "live", "completed"),
        ("h2", "h3", "live", "completed"),
        ("h3", "h1", "live", "completed"),
        ("h1", "h2", "quick", "completed"),
    ]
    for report in reports:
        assert report["outage"]["probe_hz"] == 1000
        assert report["outage"]["sent"] > 0
        assert report["forecast"]["total_s"] > 0
    assert reports[3]["outage"]["longest_silence_ms"] > reports[3]["blackout_ms"] * 0.9
    assert "and found 0 corrupt" in said
    assert "The TCP connection is the same since the start" in said
    parser = HTMLParser()
    parser.feed((tmp_path / "all.html").read_text())
    assert set(known_labs()) <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    before = set(known_labs())
    with demo(tmp_path, "--memory", "256") as process:
        assert process.stdout is not None
        said = ""
        while "migrate guest" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert set(known_labs()) <= before


def test_a_folder_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with demo(tmp_path, "--json", "nowhere/all.json") as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "there is no folder" in said
