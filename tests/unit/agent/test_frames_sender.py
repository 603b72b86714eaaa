"""Each frame reaches its VM once: whatever is not answered is sent again, and the other side tells it by its number."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from bascule.agent.frames_sender import BATCH_FRAMES, FIRST_BATCH_BYTES, FrameSender
from bascule.agent.peers import NoAnswerError
from bascule.errors import Refused
from bascule.network.handover.parcel import HEADER_BYTES, Parcel, unpack


def parcels(*numbers: int, frame_bytes: int = 60) -> list[Parcel]:
    return [Parcel(0, number, bytes(HEADER_BYTES), bytes(frame_bytes)) for number in numbers]


class There:
    """The other agent. Each batch meets the next of its `troubles`, then none."""

    def __init__(self, *troubles: str) -> None:
        self.troubles = list(troubles)
        self.batches: list[tuple[list[int], bool, bool]] = []
        self.has: list[int] = []

    async def hand(self, batch: bytes, again: bool, last: bool) -> Mapping[str, int]:
        numbers = [parcel.number for parcel in unpack(batch)]
        self.batches.append((numbers, again, last))
        trouble = self.troubles.pop(0) if self.troubles else ""
        if trouble == "refused":
            raise Refused("such frames are not taken")
        if trouble != "lost":
            self.has += [number for number in numbers if number not in self.has]
        if trouble == "hangs":
            await asyncio.Event().wait()
        if trouble:
            raise NoAnswerError(f"the batch met: {trouble}")
        return {"carried": len(self.has)}


@pytest.mark.parametrize("trouble", ["lost", "unanswered"])
async def test_what_was_not_answered_is_sent_again_and_says_so(trouble: str) -> None:
    there = There(trouble)
    sender = FrameSender(there.hand)
    sender.add(parcels(1, 2))
    assert not await sender.send()
    assert (sender.sent, sender.waiting) == (0, 2)
    sender.add(parcels(3))
    assert await sender.send()
    assert there.batches == [([1, 2], False, False), ([1, 2, 3], True, False)]
    sender.add(parcels(4))
    assert await sender.send()
    assert there.batches[-1] == ([4], False, False)
    assert there.has == [1, 2, 3, 4]
    assert (sender.sent, sender.waiting, sender.there) == (4, 0, {"carried": 4})


async def test_the_first_frames_are_sent_once_more_and_count_then() -> None:
    there = There()
    sender = FrameSender(there.hand)
    sender.add(parcels(1, 2, 3, frame_bytes=FIRST_BATCH_BYTES // 2))
    assert [parcel.number for parcel in unpack(sender.first_batch())] == [1, 2]
    assert (sender.sent, sender.waiting) == (0, 3)
    assert await sender.send()
    assert there.batches == [([1, 2, 3], True, False)]
    assert sender.sent == 3


async def test_many_go_in_several_batches_of_which_the_last_says_so() -> None:
    there = There("unanswered")
    sender = FrameSender(there.hand)
    sender.add(parcels(*range(BATCH_FRAMES + 1)))
    assert await sender.finish(20)
    assert [(len(numbers), again, last) for numbers, again, last in there.batches] == [
        (BATCH_FRAMES, False, False),
        (BATCH_FRAMES, True, False),
        (1, False, True),
    ]
    assert there.has == list(range(BATCH_FRAMES + 1))


async def test_what_is_refused_is_not_sent_again() -> None:
    there = There("refused")
    sender = FrameSender(there.hand)
    sender.add(parcels(1, 2))
    assert await sender.finish(20)
    assert (sender.sent, sender.refused, sender.waiting) == (0, 2, 0)
    assert there.batches == [([1, 2], False, True)]
    assert sender.why == {"such frames are not taken"}


async def test_a_sending_that_is_cut_off_leaves_its_frames_waiting() -> None:
    there = There("hangs")
    sender = FrameSender(there.hand)
    sender.add(parcels(1))
    assert not await sender.finish(0.05)
    assert (sender.sent, sender.waiting) == (0, 1)
    assert await sender.send()
    assert there.batches[-1] == ([1], True, False)
    assert sender.sent == 1


async def test_nothing_to_send_says_only_that_it_was_the_last() -> None:
    there = There()
    sender = FrameSender(there.hand)
    assert await sender.send()
    assert there.batches == []
    assert await sender.finish(20)
    assert there.batches == [([], False, True)]
