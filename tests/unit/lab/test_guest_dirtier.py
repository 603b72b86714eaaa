from __future__ import annotations

import json
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.lab.guest.dirtier import BLOCK_BYTES, PAGE_BYTES, POOL_BYTES, Dirtier

POOL = random.Random(7).randbytes(POOL_BYTES)
SIZE_MIB = 1
BLOCKS = SIZE_MIB * (1 << 20) // BLOCK_BYTES


def rewritten(passes: int, extra_steps: int = 0) -> Dirtier:
    dirtier = Dirtier(SIZE_MIB, POOL)
    for _ in range(passes * BLOCKS + extra_steps):
        dirtier.step()
    return dirtier


def content(dirtier: Dirtier) -> bytes:
    return b"".join(dirtier._blocks)


def test_it_fills_the_memory_asked_for_and_finds_no_fault_in_it() -> None:
    dirtier = rewritten(passes=3, extra_steps=2)
    assert len(content(dirtier)) == SIZE_MIB << 20
    assert dirtier.passes == 3
    assert dirtier.blocks_written == 3 * BLOCKS + 2
    assert dirtier.blocks_checked == 2 * BLOCKS + 2
    assert dirtier.corrupt_blocks == 0


def test_every_page_changes_in_every_pass() -> None:
    dirtier = rewritten(passes=1)
    seen = set()
    for _ in range(20):
        memory = content(dirtier)
        pages = {memory[at : at + PAGE_BYTES] for at in range(0, len(memory), PAGE_BYTES)}
        assert len(pages) == len(memory) // PAGE_BYTES
        assert not pages & seen
        seen |= pages
        for _ in range(BLOCKS):
            dirtier.step()


def test_the_content_cannot_be_compressed() -> None:
    memory = content(rewritten(passes=2))
    assert len(zlib.compress(memory, 9)) > 0.99 * len(memory)


@settings(deadline=None)
@given(offset=st.integers(0, (SIZE_MIB << 20) - 1), flip=st.integers(1, 255), steps_later=st.integers(0, BLOCKS - 1))
def test_a_single_wrong_byte_anywhere_is_found_within_a_pass(offset: int, flip: int, steps_later: int) -> None:
    dirtier = rewritten(passes=1, extra_steps=steps_later)
    block, at = divmod(offset, BLOCK_BYTES)
    dirtier._blocks[block][at] ^= flip
    for _ in range(BLOCKS):
        dirtier.step()
    assert dirtier.corrupt_blocks == 1
    story = json.loads(dirtier.stories[0])
    assert (story["block"], story["first_byte"], story["last_byte"]) == (block, at, at)
    assert story["stale_passes"] == 0
    for _ in range(BLOCKS):  # it was overwritten: one fault counts once
        dirtier.step()
    assert dirtier.corrupt_blocks == 1


@pytest.mark.parametrize("age", [1, 2, 5])
def test_a_page_left_behind_from_an_earlier_pass_is_found_and_its_age_is_told(age: int) -> None:
    dirtier = rewritten(passes=7 - age)
    old = bytes(dirtier._blocks[3][PAGE_BYTES : 2 * PAGE_BYTES])
    for _ in range(age * BLOCKS):
        dirtier.step()
    dirtier._blocks[3][PAGE_BYTES : 2 * PAGE_BYTES] = old
    for _ in range(BLOCKS):
        dirtier.step()
    assert dirtier.corrupt_blocks == 1
    assert json.loads(dirtier.stories[0])["stale_passes"] == age


def test_two_blocks_that_changed_places_are_both_found() -> None:
    dirtier = rewritten(passes=2)
    blocks = dirtier._blocks
    blocks[4][:], blocks[9][:] = bytes(blocks[9]), bytes(blocks[4])
    for _ in range(BLOCKS):
        dirtier.step()
    assert dirtier.corrupt_blocks == 2


def test_stories_are_few_however_much_is_wrong() -> None:
    dirtier = rewritten(passes=2)
    for block in dirtier._blocks:
        block[:] = bytes(BLOCK_BYTES)
    for _ in range(BLOCKS):
        dirtier.step()
    assert dirtier.corrupt_blocks == BLOCKS
    assert len(dirtier.stories) == 8


@pytest.mark.parametrize("extra_steps", [0, 1, BLOCKS - 1])
def test_what_the_injections_damage_is_found(extra_steps: int) -> None:
    dirtier = rewritten(passes=3, extra_steps=extra_steps)
    dirtier.age_page()
    for _ in range(BLOCKS):
        dirtier.step()
    dirtier.flip_byte()
    for _ in range(BLOCKS):
        dirtier.step()
    assert [json.loads(story)["stale_passes"] for story in dirtier.stories] == [1, 0]
    assert dirtier.corrupt_blocks == 2
