"""What is noted of a guest that runs, and how far it may be believed."""

from __future__ import annotations

from bascule.network.handover.references import KEEPS_UP_FRAMES, KEPT, STILL_LOOKS, References, got_up_to


def looks(references: References, times: int) -> None:
    for at_us in range(times):
        references.at_rest(at_us, 5, 70)


def test_the_used_index_counts_on_from_a_frame_that_was_shown() -> None:
    references = References()
    references.shown(10, 7, 65534)
    reference = references.last_before(10)
    assert reference is not None
    assert got_up_to(reference, 3) == 12


def test_a_guest_at_rest_has_got_all() -> None:
    references = References()
    looks(references, STILL_LOOKS)
    assert references.last_before(1000) is None
    looks(references, STILL_LOOKS + 1)
    reference = references.last_before(1000)
    assert reference is not None
    assert (reference.number, reference.used, reference.is_shown) == (5, 70, False)


def test_one_that_moves_or_for_which_frames_wait_may_not_have() -> None:
    references = References()
    for at_us in range(3 * STILL_LOOKS):
        references.at_rest(at_us, at_us // 2, 70)
        references.at_rest(at_us, 5, at_us)
    for _ in range(3):
        references.moved()
        looks(references, STILL_LOOKS)
    assert references.last_before(1000) is None


def test_of_what_was_noted_since_the_stop_only_what_was_shown_counts() -> None:
    references = References()
    references.shown(10, 7, 70)
    for at_us in range(11, 11 + 2 * STILL_LOOKS):
        references.at_rest(at_us, 9, 71)
    references.shown(100, 9, 71)
    before = references.last_before(10)
    assert before is not None
    assert before.number == 7
    assert references.shown_since(10) == [(9, 71)]


def test_a_stop_may_be_heard_seconds_late() -> None:
    references = References()
    references.shown(10, 7, 70)
    for at_us in range(11, 10 + KEPT):
        references.shown(at_us, 8, 71)
    assert references.last_before(10) is not None


def test_what_came_before_frames_were_lost_leads_no_further() -> None:
    references = References()
    references.shown(10, 7, 70)
    references.forget(9)
    assert references.last_before(1000) is None
    assert references.first_worth_a_look(12) == 9
    assert references.first_worth_a_look(9 + 2 * KEEPS_UP_FRAMES) == 9 + KEEPS_UP_FRAMES
