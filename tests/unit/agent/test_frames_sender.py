"""Each frame reaches its VM once: whatever is not answered is sent again, and the other side tells it by its number."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from bascule.agent.frames_sender import BATCH_BYTES, BATCH_FRAMES, FIRST_BATCH_BYTES, MOST_WAITING_BYTES, FrameSender
from bascule.agent.peers import NoAnswerError
from bascule.errors import Refused
from bascule.network.handover.parcel import Parcel, unpack
from bascule.network.tap import VIRTIO_HEADER_BYTES


def parcels(*numbers: int, frame_bytes: int = 60) -> list[Parcel]:
    return [Parcel(0, number, bytes(VIRTIO_HEADER_BYTES), bytes(frame_bytes)) for number in numbers]


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


def sender_to(there: There, *, tells_numbers: bool = True) -> FrameSender:
    sender = FrameSender(there.hand)
    sender.tells_numbers = tells_numbers
    return sender


@pytest.mark.parametrize("trouble", ["lost", "unanswered"])
async def test_what_was_not_answered_is_sent_again_and_says_so(trouble: str) -> None:
    there = There(trouble)
    sender = sender_to(there)
    sender.add(parcels(1, 2))
    assert not await sender.send()
    assert (sender.sent, sender.waiting) == (0, 2)
    sender.add(parcels(3))
    assert await sender.send()
    assert there.batches == [([1, 2], False, False), ([1, 2], True, False), ([3], False, False)]
    sender.add(parcels(4))
    assert await sender.send()
    assert there.batches[-1] == ([4], False, False)
    assert there.has == [1, 2, 3, 4]
    assert (sender.sent, sender.waiting, sender.there) == (4, 0, {"carried": 4})


async def test_the_first_frames_are_sent_once_more_and_count_then() -> None:
    there = There()
    sender = sender_to(there)
    sender.add(parcels(1, 2, 3, frame_bytes=FIRST_BATCH_BYTES // 2))
    assert [parcel.number for parcel in unpack(sender.first_batch())] == [1, 2]
    assert (sender.sent, sender.waiting) == (0, 3)
    assert await sender.send()
    assert there.batches == [([1, 2], True, False), ([3], False, False)]
    assert sender.sent == 3


async def test_an_agent_that_knows_no_numbers_is_sent_nothing_twice() -> None:
    there = There("unanswered")
    sender = sender_to(there, tells_numbers=False)
    sender.add(parcels(1, 2, 3, frame_bytes=FIRST_BATCH_BYTES // 2))
    assert [parcel.number for parcel in unpack(sender.first_batch())] == [1, 2]
    assert (sender.sent, sender.waiting) == (2, 1)
    assert not await sender.send()
    assert (sender.sent, sender.refused, sender.waiting) == (2, 1, 0)
    sender.add(parcels(4))
    assert await sender.finish(20)
    assert [numbers for numbers, _, _ in there.batches] == [[3], [4], []]


async def test_large_frames_go_in_batches_that_arrive_in_time() -> None:
    there = There()
    sender = sender_to(there)
    sender.add(parcels(*range(10), frame_bytes=BATCH_BYTES // 8))
    assert await sender.send()
    assert [numbers for numbers, _, _ in there.batches] == [[*range(8)], [8, 9]]
    sender.add(parcels(*range(10, 10 + MOST_WAITING_BYTES // 60_000 + 1), frame_bytes=60_000))
    assert not sender.has_room
    assert await sender.send()
    assert sender.has_room


async def test_what_came_meanwhile_goes_before_the_last() -> None:
    """Others may still be taken from the taps when all that waited has been sent."""
    there = There()
    sender = sender_to(there)
    sender.add(parcels(1))
    rest = [parcels(3), parcels(2)]
    assert await sender.finish(20, lambda: rest.pop() if rest else [])
    assert there.has == [1, 2, 3]
    assert [last for _, _, last in there.batches] == [False, False, False, True]


async def test_many_go_in_several_batches_of_which_the_last_says_so() -> None:
    there = There("unanswered")
    sender = sender_to(there)
    sender.add(parcels(*range(BATCH_FRAMES + 1)))
    assert await sender.finish(20)
    assert [(len(numbers), again, last) for numbers, again, last in there.batches] == [
        (BATCH_FRAMES, False, False),
        (BATCH_FRAMES, True, False),
        (1, False, False),
        (0, False, True),
    ]
    assert there.has == list(range(BATCH_FRAMES + 1))


async def test_what_is_refused_is_not_sent_again() -> None:
    there = There("refused")
    sender = sender_to(there)
    sender.add(parcels(1, 2))
    assert await sender.finish(20)
    assert (sender.sent, sender.refused, sender.waiting) == (0, 2, 0)
    assert there.batches == [([1, 2], False, False), ([], False, True)]
    assert sender.why == {"such frames are not taken"}


async def test_a_sending_that_is_cut_off_leaves_its_frames_waiting() -> None:
    there = There("hangs")
    sender = sender_to(there)
    sender.add(parcels(1))
    assert not await sender.finish(0.05)
    assert (sender.sent, sender.waiting) == (0, 1)
    assert await sender.send()
    assert there.batches[-1] == ([1], True, False)
    assert sender.sent == 1


async def test_nothing_to_send_says_only_that_it_was_the_last() -> None:
    there = There()
    sender = sender_to(there)
    assert await sender.send()
    assert there.batches == []
    assert await sender.finish(20)
    assert there.batches == [([], False, True)]
