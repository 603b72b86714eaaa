import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.report import words


def plain(text: str) -> str:
    return text.replace(words.GLUE, " ").replace(words.MINUS, "-")


@pytest.mark.parametrize(
    ("ms", "told"),
    [
        (None, words.NONE),
        (0, "0 ms"),
        (0.042, "0.04 ms"),
        (0.3, "0.3 ms"),
        (0.96, "1 ms"),
        (14.2, "14.2 ms"),
        (38.0, "38 ms"),
        (99.94, "99.9 ms"),
        (99.96, "100 ms"),
        (142.4, "142 ms"),
        (999.4, "999 ms"),
        (999.6, "1 s"),
        (3421, "3.42 s"),
        (75_000, "75 s"),
    ],
)
def test_milliseconds(ms, told):
    assert plain(words.milliseconds(ms)) == told


@pytest.mark.parametrize(
    ("s", "told"),
    [
        (None, words.NONE),
        (0.42, "420 ms"),
        (0.9996, "1 s"),
        (2.31, "2.3 s"),
        (9.96, "10 s"),
        (28.34, "28.3 s"),
        (99.96, "1 min 40 s"),
        (120, "2 min"),
        (3599.7, "1 h"),
        (7500, "2 h 5 min"),
    ],
)
def test_seconds(s, told):
    assert plain(words.seconds(s)) == told


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (None, words.NONE),
        (0, "0 B"),
        (512 << 10, "512 KiB"),
        (4.3 * (1 << 20), "4.3 MiB"),
        (1031 << 20, "1,031 MiB"),
        (12.4 * (1 << 30), "12.4 GiB"),
    ],
)
def test_memory(size, told):
    assert plain(words.memory(size)) == told


def test_rate_frequency_percent_and_counts():
    assert plain(words.rate(731 << 20)) == "731 MiB/s"
    assert plain(words.frequency(1000)) == "1 kHz"
    assert plain(words.frequency(250)) == "250 Hz"
    assert [plain(words.percent(value)) for value in (18.3, -4.0, 0.4, 0.01, 1234.5, None)] == [
        "+18 %",
        "-4 %",
        "+0.4 %",
        "0 %",
        "+1,234 %",
        words.NONE,
    ]
    assert words.counted(1, "round") == "1 round"
    assert words.counted(3412, "round") == "3,412 rounds"


def test_control_characters_are_written_out():
    assert words.visible("a\x1b[31mred\n\tnext\u202eevil\x00") == "a\\x1b[31mred next\\u202eevil\\x00"


@given(st.text())
def test_a_visible_text_is_one_printable_line(text):
    assert words.visible(text).isprintable()
