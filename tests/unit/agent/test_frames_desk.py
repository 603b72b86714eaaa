"""Who stays at the desk after a move has ended: whoever frames may still come for."""

from __future__ import annotations

from typing import Any

import pytest

from bascule.agent.frames_desk import FramesDesk


class Side:
    """One side of a move, which counts what comes for it."""

    vm_uuid = "7a51"
    has_places = True
    was_told = False

    def __init__(self, *, stays: bool) -> None:
        self.stays = stays
        self.closed = False

    def carry(self, parcels: list[Any], *, again: bool) -> dict[str, int]:
        self.was_told = again
        return {"carried": len(parcels)}

    def leave_places(self) -> None:
        self.has_places = False

    def let_places_go(self) -> None:
        pass

    def put_back(self, parcels: list[Any]) -> dict[str, int]:
        return {"carried": len(parcels)}

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("stays", [True, False])
async def test_a_side_for_which_no_frames_may_come_goes_at_once(stays: bool, arrives: bool) -> None:
    desk, side = FramesDesk(), Side(stays=stays)
    (desk.expect if arrives else desk.expect_back)("m1", side)  # type: ignore[arg-type]
    desk.ended("m1")
    desk.ended("m1")
    assert side.closed is not stays
    assert desk.came("m1", b"") == {"frames": {"carried": 0} if stays else {"lost": 0}}
    desk.close()
    assert side.closed


async def test_a_vm_that_leaves_again_at_once_takes_its_places_along() -> None:
    desk, arrived, leaves, other = FramesDesk(), Side(stays=True), Side(stays=True), Side(stays=True)
    other.vm_uuid = "0000"
    desk.expect("m1", arrived)  # type: ignore[arg-type]
    desk.expect("m2", other)  # type: ignore[arg-type]
    desk.ended("m1")
    desk.places_taken(leaves)  # type: ignore[arg-type]
    assert (arrived.has_places, other.has_places) == (False, True)
    desk.close()


async def test_that_frames_may_have_come_before_is_passed_on() -> None:
    desk, side = FramesDesk(), Side(stays=True)
    desk.expect("m1", side)  # type: ignore[arg-type]
    desk.came("m1", b"", again=True)
    assert side.was_told
    desk.close()
