"""The seven promises of `bascule.migration.register`, held against every store."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from tests.unit.register.stores import DurableStore, ForgetfulStore, Store

from bascule.errors import Failed
from bascule.migration.model import Decision, Move
from bascule.migration.register import Ballot

TAKEN, REFUSED = Decision.TAKEN, Decision.REFUSED
BALLOT = Ballot("vm-1", 2, "m1")
RIVAL = replace(BALLOT, move_id="m2")  # another move of the same VM at the same epoch
VALUES = pytest.mark.parametrize("value", list(Decision))


def other(value: Decision) -> Decision:
    return REFUSED if value is TAKEN else TAKEN


async def test_a_ballot_is_that_of_its_move(store: Store) -> None:
    assert Ballot.of(Move("m1", "web", "vm-1", "h1", "h2", epoch=2)) == BALLOT
    assert await store.client(BALLOT).read(BALLOT) is None


# --- 1. written once -----------------------------------------------------------------------------------------------


@VALUES
async def test_1_the_first_value_stays(store: Store, value: Decision) -> None:
    assert await store.client(BALLOT).decide(BALLOT, value) is value
    for _ in range(3):
        assert await store.client(BALLOT).decide(BALLOT, other(value)) is value
        assert await store.client(BALLOT).decide(RIVAL, TAKEN) is REFUSED
        assert await store.client(BALLOT).read(BALLOT) is value


async def test_1_each_vm_and_each_epoch_has_a_register_of_its_own(store: Store) -> None:
    others = (replace(BALLOT, vm_uuid="vm-2"), replace(BALLOT, epoch=3, move_id="m3"))
    await store.client(BALLOT).decide(BALLOT, REFUSED)
    for ballot in others:
        assert await store.client(ballot).read(ballot) is None
        assert await store.client(ballot).decide(ballot, TAKEN) is TAKEN
    assert await store.client(BALLOT).read(BALLOT) is REFUSED


async def test_1_reading_writes_nothing(store: Store) -> None:
    for _ in range(3):
        assert await store.client(BALLOT).read(BALLOT) is None
    assert await store.client(BALLOT).decide(BALLOT, TAKEN) is TAKEN


# --- 2. durable before it is told ----------------------------------------------------------------------------------


@VALUES
async def test_2_what_was_told_outlives_a_crash(durable: DurableStore, value: Decision) -> None:
    await durable.client(BALLOT).decide(BALLOT, value)
    await durable.crash()
    assert await durable.client(BALLOT).read(BALLOT) is value
    assert await durable.client(BALLOT).decide(BALLOT, other(value)) is value


@VALUES
async def test_2_and_a_restart(durable: DurableStore, value: Decision) -> None:
    await durable.client(BALLOT).decide(BALLOT, value)
    await durable.reopen()
    assert await durable.client(BALLOT).decide(BALLOT, other(value)) is value


async def test_2_a_crash_amid_many_decisions_leaves_all_that_were_told(durable: DurableStore) -> None:
    told: dict[Ballot, Decision] = {}

    async def ask(number: int) -> None:
        ballot = Ballot(f"vm-{number}", 2, "m1")
        told[ballot] = await durable.client(ballot).decide(ballot, random.Random(number).choice(list(Decision)))

    await asyncio.gather(*(ask(number) for number in range(20)))
    await durable.crash()
    for ballot, value in told.items():
        assert await durable.client(ballot).read(ballot) is value


# --- 3. one truth --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
async def test_3_all_who_ask_at_once_are_told_the_same(store: Store, seed: int) -> None:
    pick = random.Random(seed)

    async def ask(value: Decision | None) -> Decision | None:
        for _ in range(pick.randrange(3)):
            await asyncio.sleep(0)
        client = store.client(BALLOT)
        return await client.read(BALLOT) if value is None else await client.decide(BALLOT, value)

    wishes = [pick.choice([TAKEN, REFUSED, None]) for _ in range(30)]
    answers = await asyncio.gather(*(ask(value) for value in (*wishes, TAKEN, REFUSED)))
    held = await store.client(BALLOT).read(BALLOT)
    assert {answer for answer in answers if answer is not None} == {held}


@pytest.mark.parametrize("seed", range(10))
async def test_3_of_rivals_that_ask_at_once_one_at_most_is_told_taken(store: Store, seed: int) -> None:
    pick = random.Random(seed)
    ballots = [replace(BALLOT, move_id=f"m{number}") for number in range(12)]
    pick.shuffle(ballots)
    answers = await asyncio.gather(*(store.client(ballot).decide(ballot, TAKEN) for ballot in ballots))
    assert answers.count(TAKEN) == 1
    again = [await store.client(ballot).read(ballot) for ballot in ballots]
    assert again == answers


# --- 4. `taken` is one move's --------------------------------------------------------------------------------------


async def test_4_taken_is_told_to_the_move_that_wrote_it(store: Store) -> None:
    await store.client(BALLOT).decide(BALLOT, TAKEN)
    assert await store.client(BALLOT).read(BALLOT) is TAKEN
    assert await store.client(RIVAL).read(RIVAL) is REFUSED
    assert await store.client(RIVAL).decide(RIVAL, REFUSED) is REFUSED
    assert await store.client(BALLOT).decide(BALLOT, REFUSED) is TAKEN


async def test_4_refused_is_told_to_all(store: Store) -> None:
    await store.client(BALLOT).decide(BALLOT, REFUSED)
    assert await store.client(RIVAL).read(RIVAL) is REFUSED
    assert await store.client(RIVAL).decide(RIVAL, TAKEN) is REFUSED


# --- 5. asking again is harmless -----------------------------------------------------------------------------------


@VALUES
@pytest.mark.parametrize("made", [True, False])
async def test_5_a_write_that_failed_tells_nothing_and_the_same_question_answers(
    durable: DurableStore, value: Decision, made: bool
) -> None:
    durable.fail_next_write(made=made)
    with pytest.raises(Failed):
        await durable.client(BALLOT).decide(BALLOT, value)
    assert await durable.client(BALLOT).decide(BALLOT, value) is value
    await durable.crash()
    assert await durable.client(BALLOT).read(BALLOT) is value


@VALUES
@pytest.mark.parametrize("made", [True, False])
async def test_5_after_a_write_that_failed_the_other_wish_may_win_if_the_first_was_not_made(
    durable: DurableStore, value: Decision, made: bool
) -> None:
    durable.fail_next_write(made=made)
    with pytest.raises(Failed):
        await durable.client(BALLOT).decide(BALLOT, value)
    held = await durable.client(BALLOT).decide(BALLOT, other(value))
    assert held is (value if made else other(value))
    await durable.crash()
    assert await durable.client(BALLOT).read(BALLOT) is held


# --- 6. it may refuse of itself, never take ------------------------------------------------------------------------


async def test_6_an_epoch_that_is_over_is_refused(store: Store) -> None:
    later = replace(BALLOT, epoch=5, move_id="m5")
    await store.client(later).decide(later, TAKEN)
    assert await store.client(BALLOT).decide(BALLOT, TAKEN) is REFUSED
    assert await store.client(BALLOT).read(BALLOT) is REFUSED
    assert await store.client(later).read(later) is TAKEN


async def test_6_nobody_s_wish_for_refused_becomes_taken(store: Store) -> None:
    for epoch in range(2, 9):
        ballot = replace(BALLOT, epoch=epoch, move_id=f"m{epoch}")
        assert await store.client(ballot).decide(ballot, REFUSED) is REFUSED


# --- 7. `taken` is never forgotten ---------------------------------------------------------------------------------


async def test_7_taken_is_remembered_however_often_the_vm_has_moved_since(store: Store) -> None:
    await store.client(BALLOT).decide(BALLOT, TAKEN)
    for epoch in range(4, 60, 2):  # it comes back every other time
        ballot = replace(BALLOT, epoch=epoch, move_id=f"m{epoch}")
        assert await store.client(ballot).decide(ballot, TAKEN) is TAKEN
    assert await store.client(BALLOT).decide(BALLOT, REFUSED) is TAKEN


async def test_7_not_by_a_store_that_forgets(forgetful: ForgetfulStore) -> None:
    await forgetful.client(BALLOT).decide(BALLOT, TAKEN)
    await forgetful.forget(BALLOT)
    assert await forgetful.client(BALLOT).decide(BALLOT, REFUSED) is TAKEN


async def test_7_a_refusal_that_was_forgotten_is_still_a_refusal(forgetful: ForgetfulStore) -> None:
    await forgetful.client(BALLOT).decide(BALLOT, REFUSED)
    await forgetful.forget(BALLOT)
    for ballot in (BALLOT, RIVAL):
        assert await forgetful.client(ballot).read(ballot) is not TAKEN
        assert await forgetful.client(ballot).decide(ballot, TAKEN) is REFUSED


# --- all of them, by chance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(15))
async def test_whatever_is_asked_in_whatever_order(store: Store, seed: int) -> None:
    pick = random.Random(seed)
    told: dict[Ballot, Decision] = {}
    for _ in range(150):
        ballot = Ballot(f"vm-{pick.randrange(2)}", pick.randrange(2, 8), f"m{pick.randrange(3)}")
        wish = pick.choice([TAKEN, TAKEN, REFUSED, None])
        client = store.client(ballot)
        answer = await client.read(ballot) if wish is None else await client.decide(ballot, wish)
        if answer is None:
            assert ballot not in told
            continue
        assert told.setdefault(ballot, answer) is answer, "it was told otherwise before"
        if answer is TAKEN:
            rivals = [
                b
                for b, value in told.items()
                if value is TAKEN and (b.vm_uuid, b.epoch) == (ballot.vm_uuid, ballot.epoch)
            ]
            assert rivals == [ballot], "two moves have taken one epoch"
