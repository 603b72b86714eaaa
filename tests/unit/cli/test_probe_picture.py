from __future__ import annotations

from bascule.cli.braille import bars
from bascule.cli.probe_picture import LABEL_COLUMNS, LOST, WAITING, Line, Mark, dots_in, picture
from bascule.network.probe.columns import Column


def column(number: int, *, low: float | None = 0.2, high: float | None = 0.4, **more: float) -> Column:
    facts = {"sent": 10, "lost": 0, "waiting": 0, "own_ms": 0.0} | more
    return Column(
        number * 0.1, int(facts["sent"]), int(facts["lost"]), int(facts["waiting"]), low, high, facts["own_ms"]
    )


def drawn(columns: list[Column], *, width: int = 40, marks: list[Mark] | None = None) -> list[str]:
    lines = picture(columns, width=width, rows=4, length_s=0.1, marks=marks, ends=("then", "now"))
    return ["".join(text for text, _ in line) for line in lines]


def styles(line: Line) -> set[str]:
    return {style for text, style in line[1:] if text.strip()}


def test_each_bar_reaches_from_low_to_high() -> None:
    assert bars([(0.0, 0.0), (0.0, 1.0)], 1) == ["⣸"]
    assert bars([(0.5, 0.5), None], 2) == ["⡀", " "]
    assert bars([None, None], 2) == [" ", " "]


def test_the_newest_stands_at_the_right_and_nothing_is_wider_than_asked() -> None:
    for count in (1, 7, dots_in(40), 3 * dots_in(40)):
        lines = drawn([column(number) for number in range(count)])
        assert max(map(len, lines)) <= 40
        bars_line = lines[3]
        assert bars_line.rstrip() == bars_line
        assert len(bars_line) == 40
    assert drawn([column(0)])[-1] == " " * LABEL_COLUMNS + "then" + "now".rjust(40 - LABEL_COLUMNS - 4)


def test_what_is_lost_is_red_and_what_may_still_come_is_yellow() -> None:
    columns = [column(0), column(1)]
    columns += [column(2, low=None, high=None, lost=10), column(3, low=None, high=None, lost=10)]
    columns += [column(4, low=None, high=None, waiting=10), column(5, low=None, high=None, waiting=10)]
    lines = picture(columns, width=40, rows=4, length_s=0.1)
    (line,) = [line for line in lines if line[0][0].startswith("no answer")]
    assert "".join(text for text, _ in line).endswith(" ██")
    assert styles(line) == {LOST, WAITING}


def test_own_gaps_and_the_time_in_which_the_vm_stood_still() -> None:
    columns = [column(number, own_ms=50.0 if number in (4, 5) else 0.0) for number in range(8)]
    lines = drawn(columns, marks=[Mark(0.2, 0.4)])
    own, stopped = lines[-3:-1]
    assert own.startswith(" own gaps │")
    assert own.rstrip().endswith("▅")
    assert stopped.startswith("  stopped │")
    assert stopped[-4:] == " ━  "
    assert not any("stopped" in line for line in drawn(columns))


def test_nothing_answered_is_no_picture_and_no_error() -> None:
    lines = drawn([column(number, low=None, high=None, lost=10) for number in range(4)])
    assert not any("⣿" in line for line in lines)
    assert any("██" in line for line in lines)
