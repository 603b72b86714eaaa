import pytest

from bascule.report.text import COLUMNS, render_text


@pytest.mark.parametrize("name", ["live", "quick", "failed", "cancelled", "refused", "unknown"])
def test_no_line_is_too_long_and_none_has_trailing_space(moves, name):
    text = render_text(getattr(moves, name)())
    assert text.endswith("\n")
    for line in text.splitlines():
        assert len(line) <= COLUMNS
        assert line == line.rstrip()


def test_a_live_move_shows_everything(moves):
    text = render_text(moves.live())
    assert text.startswith(
        "web moved from h1 to h2 in 2.3 s; its vCPUs stood still for 14.2 ms; a client at 1 kHz lost 0"
    )
    assert "     2       1.62 s     0.27 s      196 MiB       61 MiB      726 MiB/s" in text
    assert "14.2 ms ± 0.3 ms · asked for at most 100 ms: kept" in text
    assert "word to the destination                 0.7 ms" in text
    assert "total time: forecast 2.1 s, was 2.3 s (+10 %)" in text
    assert "sent 3,410, lost 0, duplicated 0, reordered 0" in text
    assert "follows the VM: seen 1.2 ms after it ran (h2's clock) · announced 2 times in 6 frames" in text


def test_the_bars_of_the_blackout_stand_where_the_parts_were(moves):
    parts = [
        {"phase": "half", "start_ms": 0, "ms": 5, "clock": "source"},
        {"phase": "other half", "start_ms": 5, "ms": 5, "clock": "destination"},
        {"phase": "last blink", "start_ms": 10, "ms": 0, "clock": "destination"},
    ]
    text = render_text(moves.live(blackout=parts, blackout_ms=10, moments=[]))
    assert "|============            | source" in text
    assert "|            ============| destination" in text
    assert "|                       =| destination" in text


def test_what_followed_the_blackout_is_on_its_line_of_time(moves):
    text = render_text(moves.live())
    assert "After it  the VM runs, and the client waits on" in text
    assert "first frame out                        21.8 ms  |        ==============  | destination" in text
    assert "first answer at the client                2 ms  |                      = | both" in text


def test_what_is_missing_is_said_or_left_out(moves):
    text = render_text(moves.refused())
    assert "nothing changed: h9 is not in the list of hosts" in " ".join(text.split())
    assert "no client was watching" in text
    assert "Rounds" not in text
    assert "Blackout" not in text
    assert "Forecast" not in text


def test_names_and_reasons_can_do_nothing_to_a_terminal(moves):
    text = render_text(moves.failed(vm="a\x1b]0;evil\x07", reason="QEMU said:\r\n\x1b[2Jgone", id="\x9b1m"))
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "\\x1b[2Jgone" in text


def test_a_long_word_does_not_widen_the_text(moves):
    text = render_text(moves.failed(reason="x" * 500, vm="y" * 300))
    assert max(map(len, text.splitlines())) <= COLUMNS
