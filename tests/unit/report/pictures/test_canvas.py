from hypothesis import given
from hypothesis import strategies as st

from bascule.report.pictures.canvas import Box, measure, shortened, text_width, wrapped

ROOM = Box(0, 0, 300, 100)


@given(st.text(max_size=60), st.floats(20, 400))
def test_a_shortened_text_fits(text, room):
    assert text_width(shortened(text, room)) <= room


@given(st.lists(st.text(alphabet="abcm", min_size=1, max_size=8), max_size=20))
def test_wrapping_loses_no_word_and_no_line_is_too_wide(words):
    text = " ".join(words)
    lines = wrapped(text, 150)
    assert " ".join(lines) == text
    assert all(text_width(line) <= 150 for line in lines)


def test_a_dimension_has_its_text_on_the_line_or_beside_it():
    long = measure(10, 290, 50, "14 ms", room=ROOM, kind="dark")
    assert "mid" in long
    assert 'x="26"' in measure(10, 20, 50, "14 ms", room=ROOM, kind="dark")
    assert "num" in measure(280, 290, 50, "14 ms", room=ROOM, kind="dark")
