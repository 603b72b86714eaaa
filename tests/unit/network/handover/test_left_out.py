"""Which frames a guest has not got, from the places of the others in its queue: checked against a row that is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.network.handover.left_out import LeftOut, left_out

FIRST = 100
USED = 65530


@pytest.mark.parametrize(
    ("lags", "missing", "found"),
    [
        ([], 0, []),
        ([None], 1, [0]),
        ([None, None], 1, None),
        ([None, 1, None], 1, [0]),
        ([0, None, 1], 1, [1]),
        ([0, None, None, 1], 1, None),
        ([0, None, None, 2], 2, [1, 2]),
        ([0, None, 1, None, 2], 2, [1, 3]),
        ([0, None, 1, None, None, 2], 2, None),
        ([0, 0, None], 1, [2]),
        ([None, None, 0, 0], 0, []),
    ],
)
def test_what_lies_between_two_frames_whose_lags_differ_is_left_out(
    lags: list[int | None], missing: int, found: list[int] | None
):
    assert left_out(lags, missing) == found


@pytest.mark.parametrize(("lags", "missing"), [([1], 1), ([0, 1], 1), ([None, 1, 0], 1), ([None, 1], 0), ([], 1)])
def test_lags_that_cannot_be_are_an_error(lags: list[int | None], missing: int):
    with pytest.raises(ValueError, match="a lag of"):
        left_out(lags, missing)


@st.composite
def rows(draw: st.DrawFn) -> tuple[int, set[int], set[int], int]:
    """A row's length, the positions left out in it, those shown, and how many at its end are still on their way."""
    length = draw(st.integers(0, 12))
    gone = draw(st.sets(st.integers(0, max(0, length - 1)), max_size=min(2, length)))
    given_ones = [at for at in range(length) if at not in gone]
    on_their_way = draw(st.integers(0, min(2, len(given_ones))))
    shown = draw(st.sets(st.sampled_from(given_ones[: len(given_ones) - on_their_way] or [-1])))
    return length, gone, shown - {-1}, on_their_way


@given(rows(), st.booleans())
def test_what_is_told_is_so(row: tuple[int, set[int], set[int], int], at_stop: bool):
    """Where it is the first ones that are left out, or nothing is said of that."""
    length, gone, shown, on_their_way = row
    if at_stop and gone != set(range(len(gone))):
        at_stop = False
    known = LeftOut(FIRST, USED, at_stop=at_stop)
    places = {}
    for at in range(length):
        if at not in gone:
            places[at] = len(places) + 1
    known.shows((FIRST + at, (USED + places[at]) % 65536) for at in shown)
    known.nothing_waits(length, (USED + len(places) - on_their_way) % 65536)
    try:
        told = known.told([FIRST + at for at in range(length)])
    except ValueError:
        assert gone
        return
    assert told is None or told == sorted(FIRST + at for at in gone)


@given(rows())
def test_where_only_counts_say_what_was_got_nothing_is_told(row: tuple[int, set[int], set[int], int]):
    length, gone, _shown, on_their_way = row
    known = LeftOut(FIRST, USED, is_certain=False)
    known.nothing_waits(length, USED + length - len(gone) - on_their_way)
    if gone or on_their_way:
        assert known.told([FIRST + at for at in range(length)]) is None
    else:
        with pytest.raises(ValueError, match="only counts"):
            known.told([FIRST + at for at in range(length)])


def test_a_start_that_was_wrong_is_seen():
    """Frame 100 had been given before."""
    known = LeftOut(FIRST, USED)
    known.shows([(FIRST, USED + 2), (FIRST + 1, USED + 3), (FIRST + 3, USED + 4), (FIRST + 4, USED + 5)])
    known.nothing_waits(5, USED + 5)
    with pytest.raises(ValueError, match="contradict"):
        known.told([FIRST + at for at in range(5)])


def test_a_frame_in_two_places_is_a_contradiction():
    known = LeftOut(FIRST, USED)
    known.shows([(FIRST, USED + 1)])
    known.shows([(FIRST, USED + 2)])
    known.nothing_waits(2, USED + 2)
    with pytest.raises(ValueError, match="contradict"):
        known.told([FIRST, FIRST + 1])


def test_what_was_given_before_does_not_count():
    known = LeftOut(FIRST, USED)
    known.shows([(FIRST, USED), (FIRST - 1, USED + 1), (FIRST + 1, USED - 5)])
    known.nothing_waits(2, USED + 2)
    assert known.told([FIRST, FIRST + 1]) == []


def test_more_than_qemu_takes_is_none_of_its():
    known = LeftOut(FIRST, USED)
    known.shows([(FIRST + 3, USED + 1)])
    known.nothing_waits(4, USED + 1)
    with pytest.raises(ValueError, match="3 seem to be left out"):
        known.told([FIRST + at for at in range(4)])


def test_until_nothing_waits_it_is_not_known():
    known = LeftOut(FIRST, USED)
    assert known.told([]) is None
    known.nothing_waits(1, USED + 2)  # more than has come
    assert known.told([FIRST]) is None
