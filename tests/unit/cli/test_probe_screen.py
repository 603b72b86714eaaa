from __future__ import annotations

import io
from array import array

import pytest

from bascule.cli.probe_screen import NARROWEST, PICTURE_LINES, Watch, can_draw, live_lines, one_line
from bascule.network.probe.samples import Samples, StreamInfo

MS = 1_000_000
S = 1000 * MS


def watched(seconds: float, *, lost: range = range(0), name: str = "10.77.0.50") -> Watch:
    """A probe at 100 Hz that has run for so long."""
    sent = [S + number * 10 * MS for number in range(int(seconds * 100))]
    answered = [number for number in range(len(sent)) if number not in lost]
    samples = Samples(
        StreamInfo("icmp", name, 100.0),
        sent_at_ns=array("q", sent),
        answer_sequence=array("I", answered),
        answer_at_ns=array("q", [sent[number] + MS // 4 for number in answered]),
        recorded_until_ns=sent[-1] + 10 * MS,
    )
    watch = Watch(samples.stream)
    watch.update(samples)
    return watch


def text(watch: Watch, width: int, height: int) -> list[str]:
    lines = live_lines(watch, width=width, height=height)
    return ["".join(part for part, _ in line).replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def test_a_picture_with_its_figures() -> None:
    lines = text(watched(5, lost=range(100, 120)), 100, 30)
    assert lines[0].startswith("ICMP echo to 10.77.0.50 at 100 Hz for 4")
    assert "lost 20," in lines[-4]
    assert lines[-3].startswith("round trips 50 % 0.2")
    assert lines[-2].startswith("longest silence 210 ms, at 0.990 s")
    assert lines[-1] == "the probe itself was always on time"
    assert len(lines) < 30


@pytest.mark.parametrize("width", [NARROWEST, 80, 100, 159, 400])
def test_the_picture_is_never_wider_than_the_terminal(width: int) -> None:
    lines = text(watched(60), width, 50)
    assert all(len(line) <= width for line in lines[1:10])


@pytest.mark.parametrize(("width", "height"), [(20, 50), (NARROWEST - 1, 50), (100, PICTURE_LINES), (100, 3), (10, 1)])
def test_what_matters_most_where_there_is_no_room(width: int, height: int) -> None:
    lines = text(watched(5, lost=range(100, 120)), width, height)
    assert 1 <= len(lines) <= max(1, height - 1)
    assert lines[0].startswith("lost 20 of ")
    if len(lines) > 1:
        assert lines[1] == "longest silence 210 ms"


def test_a_silence_that_goes_on_is_shouted() -> None:
    watch = watched(5, lost=range(400, 500))
    assert "SILENT for 1" in one_line(watch.totals)
    assert any("SILENT for 1" in line for line in text(watch, 30, 30))
    assert any("SILENT for 1" in line for line in text(watch, 100, 30))


def test_only_a_terminal_that_can_is_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert not can_draw(io.StringIO())
    assert can_draw(Terminal(io.BytesIO(), encoding="UTF-8"))
    assert not can_draw(Terminal(io.BytesIO(), encoding="latin-1"))
    monkeypatch.setenv("TERM", "dumb")
    assert not can_draw(Terminal(io.BytesIO(), encoding="UTF-8"))
