"""What is taken for the proof that the network brings frames to the VM's new place."""

from __future__ import annotations

from bascule.network.arrivals import MOST_SENDERS, Sighted

CLIENT, OTHER = b"client", b"other-"


def test_a_frame_that_came_in_and_left_again_has_arrived() -> None:
    seen = Sighted()
    seen.came_in(CLIENT, 100)
    assert seen.arrived_ns is None
    seen.left(CLIENT, 103)
    seen.left(CLIENT, 999)
    assert seen.arrived_ns == 103


def test_the_two_may_be_read_in_either_order() -> None:
    seen = Sighted()
    seen.left(CLIENT, 103)
    seen.came_in(CLIENT, 100)
    assert seen.arrived_ns == 103


def test_what_was_only_seen_at_one_place_has_not() -> None:
    seen = Sighted()
    seen.came_in(CLIENT, 100)
    seen.left(OTHER, 103)
    assert seen.arrived_ns is None


def test_what_was_carried_over_is_no_proof_but_hides_none() -> None:
    seen = Sighted()
    seen.left(CLIENT, 50)
    seen.came_in(CLIENT, 100)
    assert seen.arrived_ns is None
    seen.left(CLIENT, 103)
    assert seen.arrived_ns == 103


def test_senders_without_number_are_not_all_kept() -> None:
    seen = Sighted()
    for number in range(10 * MOST_SENDERS):
        seen.came_in(number.to_bytes(6), 1)
        seen.left(number.to_bytes(6), 2)
    assert len(seen.on_wire) == len(seen.at_tap) == MOST_SENDERS
    seen.left((0).to_bytes(6), 1)
    assert seen.arrived_ns == 1
