"""Who stays at the desk after a move has ended: whoever frames may still come for."""

from __future__ import annotations

from typing import Any

import pytest

from bascule.agent.frames_desk import FramesDesk


class Side:
    """One side of a move, which counts what comes for it."""

    def __init__(self, *, stays: bool) -> None:
        self.stays = stays
        self.closed = False

    def carry(self, parcels: list[Any], *, again: bool) -> dict[str, int]:
        return {"carried": len(parcels)}

    def restore_queues(self) -> None:
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
