"""The journal: what it says is durable, what it writes belongs together, and what it cannot use it refuses."""

import asyncio
import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bascule.errors import Failed, Refused
from bascule.journal.journal import Journal
from bascule.journal.records import FactRecord, MoveRecord, VmRecord
from bascule.journal.schema import VERSION
from bascule.migration.model import Decision, Goals, Mode, Move
from bascule.migration.ownership import Offer
from bascule.migration.register import Ballot

UUID = "11111111-2222-3333-4444-555555555555"


def vm(name: str = "web", uuid: str = UUID, **changes: Any) -> VmRecord:
    return replace(VmRecord(uuid, name, {"name": name}, owner="h1", here=True, epoch=1), **changes)


def move(number: int = 1, **changes: Any) -> Move:
    return replace(Move(f"m{number}", "web", UUID, "h1", "h2", epoch=2), **changes)


def record(number: int = 1, side: str = "source", **changes: Any) -> MoveRecord:
    return replace(MoveRecord(move(number), side, "10.0.0.2:7440", "2024-01-01T00:00:00.000+00:00"), **changes)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[Journal]:
    opened = Journal(path)
    await opened.open()
    yield opened
    await opened.close()


async def reopened(journal: Journal, path: Path) -> Journal:
    """The same journal as the next agent finds it."""
    await journal.close()
    again = Journal(path)
    await again.open()
    return again


# --- VMs --------------------------------------------------------------------------------------------------------------


async def test_a_vm_comes_back_as_it_was_written(journal: Journal, path: Path) -> None:
    await journal.define(vm())
    await journal.set_process(UUID, {"pid": 42}, "tcg", "running")
    await journal.offer(UUID, Offer("h2", 2, "m1"))
    expected = vm(process={"pid": 42}, accelerator="tcg", wanted="running", offer=Offer("h2", 2, "m1"))
    again = await reopened(journal, path)
    assert await again.vm("web") == await again.vm_by_uuid(UUID) == expected
    assert await again.vms() == [expected]
    await again.delete(UUID)
    again = await reopened(again, path)
    assert await again.vms() == []
    await again.close()


async def test_a_name_or_a_uuid_is_given_once(journal: Journal) -> None:
    await journal.define(vm())
    with pytest.raises(Refused, match="cannot define vm web: a VM of this name or UUID is already known"):
        await journal.define(vm(uuid="other"))
    with pytest.raises(Refused, match="cannot define vm api"):
        await journal.define(vm("api"))
    assert [one.name for one in await journal.vms()] == ["web"]


async def test_the_name_of_a_vm_that_was_handed_over_is_free(journal: Journal) -> None:
    await journal.define(vm())
    await journal.release(move(vm_uuid=UUID, destination="h2", epoch=2))
    await journal.define(vm(uuid="other"))
    assert (await journal.vm("web")) == vm(uuid="other")
    gone = await journal.handed_over("web")
    assert gone is not None
    assert (gone.uuid, gone.owner, gone.here) == (UUID, "h2", False)


# --- ownership --------------------------------------------------------------------------------------------------------


async def test_an_offer_that_is_withdrawn_leaves_the_vm_and_uses_its_epoch_up(journal: Journal, path: Path) -> None:
    await journal.define(vm())
    await journal.offer(UUID, Offer("h2", 2, "m1"))
    await journal.withdraw(move(1))
    again = await reopened(journal, path)
    assert await again.vm("web") == vm(epoch=2)
    await again.close()


async def test_a_withdrawal_that_was_never_offered_uses_the_epoch_up_too(journal: Journal) -> None:
    await journal.define(vm())
    await journal.withdraw(move(1))
    await journal.withdraw(move(1))
    assert await journal.vm("web") == vm(epoch=2)


async def test_only_the_move_that_offered_withdraws(journal: Journal) -> None:
    await journal.define(vm())
    await journal.offer(UUID, Offer("h2", 2, "m1"))
    await journal.withdraw(move(0))
    assert await journal.vm("web") == vm(offer=Offer("h2", 2, "m1"))


async def test_one_offer_at_a_time_and_of_own_vms_only(journal: Journal) -> None:
    await journal.define(vm())
    await journal.offer(UUID, Offer("h2", 2, "m1"))
    await journal.offer(UUID, Offer("h2", 2, "m1"))  # the same again is no other
    with pytest.raises(Refused, match="offered already"):
        await journal.offer(UUID, Offer("h3", 2, "m2"))
    with pytest.raises(Refused, match="not this host's"):
        await journal.offer("unknown", Offer("h2", 2, "m1"))
    await journal.release(move(vm_uuid=UUID, destination="h2", epoch=2))
    with pytest.raises(Refused, match="not this host's"):
        await journal.offer(UUID, Offer("h3", 3, "m3"))


async def test_a_release_is_one_change_and_a_late_one_changes_nothing(journal: Journal, path: Path) -> None:
    await journal.define(vm(process={"pid": 42}, accelerator="tcg", wanted="running"))
    await journal.offer(UUID, Offer("h2", 2, "m1"))
    await journal.release(move(vm_uuid=UUID, destination="h2", epoch=2))
    again = await reopened(journal, path)
    assert await again.vm("web") is None
    assert await again.vms() == []
    assert await again.vm_by_uuid(UUID) == vm(owner="h2", here=False, epoch=2)
    back = vm(owner="h1", epoch=3)
    assert await again.decide(Ballot(UUID, 3, "m2"), Decision.TAKEN, back) is Decision.TAKEN
    await again.release(move(vm_uuid=UUID, destination="h2", epoch=2))  # of the move before
    assert await again.vm("web") == back
    await again.close()


async def test_a_release_that_ends_its_move_does_both_or_neither(journal: Journal, path: Path) -> None:
    """A restarted agent would take the VM for one that runs on its destination."""
    await journal.define(vm())
    await journal.begin_move(record())
    report = {"outcome": "failed", "reason": "it belongs to h2, and is stopped"}
    with pytest.raises(TypeError):
        await journal.release(move(), {**report, "not JSON": object()})
    assert await journal.vm("web") == vm()
    await journal.release(move(), report)
    again = await reopened(journal, path)
    assert await again.vm_by_uuid(UUID) == vm(owner="h2", here=False, epoch=2)
    ended = await again.move("m1", "source")
    assert ended is not None
    assert (ended.outcome, ended.reason, ended.report) == ("failed", report["reason"], report)
    await again.end_move("m1", "source", "unknown", "h2 does not answer", None)  # told late: it was so before
    assert await again.move("m1", "source") == ended
    assert await again.moves("source", unfinished=True) == []
    await again.close()


# --- the decision register --------------------------------------------------------------------------------------------


async def test_taken_makes_this_host_the_owner_in_the_same_write(journal: Journal, path: Path) -> None:
    mine = vm(owner="h2", epoch=2, process={"pid": 7}, accelerator="tcg", wanted="running")
    assert await journal.decision(Ballot(UUID, 2, "m1")) is None
    assert await journal.decide(Ballot(UUID, 2, "m1"), Decision.TAKEN, mine) is Decision.TAKEN
    again = await reopened(journal, path)
    assert await again.decision(Ballot(UUID, 2, "m1")) is Decision.TAKEN
    assert await again.vm("web") == mine
    await again.close()


async def test_if_the_vm_cannot_be_written_the_register_is_not_either(journal: Journal) -> None:
    with pytest.raises(TypeError):
        await journal.decide(Ballot(UUID, 2, "m1"), Decision.TAKEN, vm(epoch=2, definition={"not": {"JSON"}}))
    assert await journal.decision(Ballot(UUID, 2, "m1")) is None
    assert await journal.vm_by_uuid(UUID) is None


@pytest.mark.parametrize("first", list(Decision))
@pytest.mark.parametrize("second", list(Decision))
async def test_the_register_is_written_once(journal: Journal, path: Path, first: Decision, second: Decision) -> None:
    assert await journal.decide(Ballot(UUID, 2, "m1"), first, vm(epoch=2)) is first
    again = await reopened(journal, path)
    assert await again.decide(Ballot(UUID, 2, "m1"), second, vm(epoch=2)) is first
    assert (await again.vm("web") is not None) == (first is Decision.TAKEN)
    await again.close()


@pytest.mark.parametrize("seed", range(10))
async def test_of_fifty_that_decide_at_once_the_first_wins_and_all_hear_it(journal: Journal, seed: int) -> None:
    wishes = random.Random(seed).choices(list(Decision), k=50)
    heard = await asyncio.gather(*(journal.decide(Ballot(UUID, 2, "m1"), wish, vm(epoch=2)) for wish in wishes))
    assert set(heard) == {wishes[0]}
    assert await journal.decision(Ballot(UUID, 2, "m1")) is wishes[0]
    assert len(await journal.vms()) == (wishes[0] is Decision.TAKEN)


async def test_two_agents_by_mistake_on_one_journal_still_decide_once(journal: Journal, path: Path) -> None:
    other = Journal(path)
    await other.open()
    for epoch in range(2, 22):
        answers = await asyncio.gather(
            journal.decide(Ballot(UUID, epoch, "m1"), Decision.REFUSED, vm(epoch=epoch)),
            other.decide(Ballot(UUID, epoch, "m1"), Decision.TAKEN, vm(epoch=epoch)),
        )
        assert len(set(answers)) == 1
    await other.close()


async def test_another_move_at_the_same_epoch_does_not_take_what_is_taken(journal: Journal) -> None:
    await journal.decide(Ballot(UUID, 2, "m1"), Decision.TAKEN, vm(epoch=2))
    assert await journal.decide(Ballot(UUID, 2, "m2"), Decision.TAKEN, vm(epoch=2)) is Decision.REFUSED
    assert await journal.decide(Ballot(UUID, 2, "m1"), Decision.TAKEN, vm(epoch=2)) is Decision.TAKEN


async def test_epochs_and_vms_have_registers_of_their_own(journal: Journal) -> None:
    await journal.decide(Ballot(UUID, 2, "m1"), Decision.REFUSED, vm(epoch=2))
    assert await journal.decide(Ballot(UUID, 3, "m2"), Decision.TAKEN, vm(epoch=3)) is Decision.TAKEN
    assert await journal.decide(Ballot("other", 3, "m3"), Decision.REFUSED, vm("api")) is Decision.REFUSED


async def test_a_name_that_belongs_to_another_vm_is_refused(journal: Journal, path: Path) -> None:
    await journal.define(vm(uuid="other"))
    assert await journal.decide(Ballot(UUID, 2, "m1"), Decision.TAKEN, vm(epoch=2)) is Decision.REFUSED
    again = await reopened(journal, path)
    assert await again.decision(Ballot(UUID, 2, "m1")) is Decision.REFUSED
    assert [one.uuid for one in await again.vms()] == ["other"]
    await again.close()


async def test_a_vm_that_was_handed_over_can_come_back(journal: Journal) -> None:
    await journal.define(vm())
    await journal.release(move(vm_uuid=UUID, destination="h2", epoch=2))
    back = vm(epoch=3)
    assert await journal.decide(Ballot(UUID, 3, "m2"), Decision.TAKEN, back) is Decision.TAKEN
    assert await journal.vm("web") == back


async def test_a_very_late_word_for_an_old_epoch_takes_nothing(journal: Journal) -> None:
    await journal.decide(Ballot(UUID, 4, "m2"), Decision.TAKEN, vm(epoch=4))
    assert await journal.decide(Ballot(UUID, 2, "m1"), Decision.TAKEN, vm(epoch=2)) is Decision.REFUSED
    assert await journal.vm("web") == vm(epoch=4)
    await journal.release(move(vm_uuid=UUID, destination="h3", epoch=5))
    assert await journal.decide(Ballot(UUID, 3, "m0"), Decision.TAKEN, vm(epoch=3)) is Decision.REFUSED
    assert await journal.vms() == []


# --- moves and facts --------------------------------------------------------------------------------------------------


async def test_a_move_comes_back_as_it_was_written(journal: Journal, path: Path) -> None:
    begun = record(
        move=move(mode=Mode.QUICK, goals=Goals(50, 30)),
        definition={"name": "web"},
        accelerator="tcg",
    )
    await journal.begin_move(begun)
    await journal.note_state_file("m1", "/shared/web.m1.bascule-state")
    await journal.end_move("m1", "source", "failed", "because", {"total_s": 1.5})
    await asyncio.gather(
        journal.amend_outage("m1", {"lost": 1}),
        journal.amend_network("m1", {"state": "seen", "nics": [{"why": "'"}]}),
    )
    again = await reopened(journal, path)
    assert await again.move("m1", "source") == replace(
        begun,
        state_file="/shared/web.m1.bascule-state",
        outcome="failed",
        reason="because",
        report={
            "total_s": 1.5,
            "outage": {"lost": 1},
            "moments": [],
            "network": {"state": "seen", "nics": [{"why": "'"}]},
        },
    )
    assert await again.move("m1", "destination") is None
    await again.close()


async def test_both_sides_of_one_move_are_two_records(journal: Journal) -> None:
    await journal.begin_move(record())
    await journal.begin_move(record(side="destination"))
    await journal.note_incoming("m1", {"pid": 1}, "tcg")
    await journal.end_move("m1", "destination", "completed", "", None)
    source, destination = await journal.move("m1", "source"), await journal.move("m1", "destination")
    assert source == record()
    assert destination == record(side="destination", process={"pid": 1}, accelerator="tcg", outcome="completed")


async def test_unfinished_moves_are_those_without_an_outcome_or_with_unknown(journal: Journal) -> None:
    for number, outcome in enumerate(["completed", None, "unknown", "refused", "failed", "cancelled"]):
        await journal.begin_move(record(number))
        if outcome is not None:
            await journal.end_move(f"m{number}", "source", outcome, "", None)
    assert [one.move.id for one in await journal.moves("source", unfinished=True)] == ["m2", "m1"]
    assert [one.move.id for one in await journal.moves("source", limit=3)] == ["m5", "m4", "m3"]
    assert await journal.moves("destination") == []


async def test_a_late_request_to_begin_a_move_is_refused(journal: Journal) -> None:
    await journal.begin_move(record(side="destination"))
    await journal.end_move("m1", "destination", "completed", "", None)
    with pytest.raises(Refused, match="it began here before"):
        await journal.begin_move(record(side="destination"))
    ended = await journal.move("m1", "destination")
    assert ended is not None
    assert ended.outcome == "completed"
    await journal.decide(Ballot(UUID, 2, "m2"), Decision.REFUSED, vm(epoch=2))
    with pytest.raises(Refused, match="it is refused already"):
        await journal.begin_move(record(2, side="destination"))
    await journal.begin_move(record(2))  # on the source, another host's register says nothing


async def test_old_moves_and_their_facts_are_forgotten_but_never_unsettled_ones(path: Path) -> None:
    journal = Journal(path, keep_moves=3)
    for number in range(10):
        await journal.begin_move(record(number))
        journal.note_fact(f"m{number}", "source", FactRecord(0.0, "Checked"))
        await journal.flush_facts()
        if number != 1:
            await journal.end_move(f"m{number}", "source", "unknown" if number == 2 else "completed", "", None)
    assert [one.move.id for one in await journal.moves("source")] == ["m9", "m8", "m7", "m2", "m1"]
    with sqlite3.connect(path) as db:
        left = {row[0] for row in db.execute("select move_id from fact")}
    db.close()
    await journal.close()
    assert left == {"m9", "m8", "m7", "m2", "m1"}


async def test_facts_wait_in_memory_until_they_are_flushed(journal: Journal, path: Path) -> None:
    noted = [FactRecord(0.5 * n, "CopyProgress", {"round": n}) for n in range(5)]
    for fact in noted[:3]:
        journal.note_fact("m1", "source", fact)
    journal.note_fact("m1", "destination", noted[4])
    assert await journal.facts("m1", "source") == []
    await journal.flush_facts()
    journal.note_fact("m1", "source", noted[3])
    again = await reopened(journal, path)  # closing flushes
    assert await again.facts("m1", "source") == noted[:4]
    assert await again.facts("m1", "destination") == [noted[4]]
    await again.close()


def fill(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def locked(path: Path) -> Callable[[], None]:
    """Keep everybody else from writing; returns what ends that."""
    other = sqlite3.connect(path)
    other.execute("begin immediate")
    return lambda: (other.rollback(), other.close())  # type: ignore[func-returns-value, return-value]


async def test_a_write_that_fails_is_told_and_changes_nothing_and_the_next_succeeds(
    journal: Journal, path: Path
) -> None:
    await journal.define(vm())
    await journal._run(lambda db: db.execute("pragma busy_timeout = 20"))
    journal.note_fact("m1", "source", FactRecord(0.0, "Checked"))
    undo = locked(path)
    for attempt in (
        journal.offer(UUID, Offer("h2", 2, "m1")),
        journal.decide(Ballot("other", 2, "m2"), Decision.TAKEN, vm("api", "other")),
        journal.begin_move(record()),
        journal.flush_facts(),
    ):
        with pytest.raises(Failed, match=r"cannot use the journal .*journal\.db: database is locked") as caught:
            await attempt
        assert "room" in caught.value.remedy
    assert await journal.vm("web") == vm()  # reading goes on
    undo()
    await journal.offer(UUID, Offer("h2", 2, "m1"))
    assert await journal.decide(Ballot("other", 2, "m2"), Decision.TAKEN, vm("api", "other")) is Decision.TAKEN
    journal.note_fact("m1", "source", FactRecord(1.0, "OfferDurable"))
    await journal.flush_facts()
    assert [fact.name for fact in await journal.facts("m1", "source")] == ["Checked", "OfferDurable"]


async def test_a_full_disk_in_the_middle_of_a_write_leaves_nothing_of_it(journal: Journal) -> None:
    await journal.define(vm())
    await journal._run(lambda db: db.execute("pragma max_page_count = 1"))  # SQLite takes the present size instead
    large = vm("api", "other", definition={"filler": "x" * 200_000})
    with pytest.raises(Failed, match="database or disk is full"):
        await journal.decide(Ballot("other", 2, "m2"), Decision.TAKEN, large)
    assert await journal.decision(Ballot("other", 2, "m1")) is None
    assert [one.name for one in await journal.vms()] == ["web"]
    assert await journal.decide(Ballot("other", 2, "m2"), Decision.REFUSED, large) is Decision.REFUSED


async def test_a_newer_journal_is_refused_and_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute(f"pragma user_version = {VERSION + 1}")
    db.close()
    journal = Journal(path)
    with pytest.raises(Refused, match=f"it has version {VERSION + 1}, this Bascule knows version {VERSION}") as caught:
        await journal.open()
    assert "install the Bascule that wrote it" in caught.value.remedy
    await journal.close()
    with sqlite3.connect(path) as db:
        assert db.execute("select count(*) from sqlite_master").fetchone() == (0,)
    db.close()


async def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    fill(path, b"surely this is not a database" * 200)
    journal = Journal(path)
    with pytest.raises(Refused, match=r"cannot open the journal .*: file is not a database") as caught:
        await journal.open()
    assert "restored from a copy" in caught.value.remedy
    await journal.close()


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 // 4096 * 4096])


def overwrite(path: Path) -> None:
    content = path.read_bytes()
    middle = len(content) // 2 // 4096 * 4096
    path.write_bytes(content[:middle] + b"\xff" * 8192 + content[middle + 8192 :])


@pytest.mark.parametrize("damage", [truncate, overwrite])
async def test_a_damaged_database_is_refused_at_the_start(
    journal: Journal, path: Path, damage: Callable[[Path], None]
) -> None:
    for number in range(300):
        await journal.decide(Ballot(f"{UUID}-{number}", 2, "m1"), Decision.TAKEN, vm(f"vm{number}", f"{UUID}-{number}"))
    await journal.close()
    damage(path)
    damaged = Journal(path)
    with pytest.raises(Refused, match="cannot open the journal") as caught:
        await damaged.open()
    assert "a damaged journal can be restored from a copy" in caught.value.remedy
    await damaged.close()


async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    journal = Journal(tmp_path / "file" / "journal.db")
    with pytest.raises(Refused, match="cannot open the journal") as caught:
        await journal.open()
    assert "writable" in caught.value.remedy
    await journal.close()


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder with a journal in it that cannot be written to, by root neither while the test runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(opened_and_closed(folder / "journal.db"))
        folder.chmod(0o555)
        (folder / "journal.db").chmod(0o444)
        was_root = os.geteuid() == 0
        if was_root:
            os.seteuid(65534)
        yield folder
        if was_root:
            os.seteuid(0)
        folder.chmod(0o755)


async def opened_and_closed(path: Path) -> None:
    journal = Journal(path)
    await journal.open()
    await journal.close()


async def test_a_journal_that_cannot_be_written_is_refused(read_only_folder: Path) -> None:
    journal = Journal(read_only_folder / "journal.db")
    with pytest.raises(Refused, match="readonly database") as caught:
        await journal.open()
    assert "writable" in caught.value.remedy
    await journal.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from bascule.journal.journal import Journal
from bascule.journal.records import FactRecord, VmRecord
from bascule.migration.model import Decision, Move
from bascule.migration.ownership import Offer
from bascule.migration.register import Ballot

async def main():
    journal = Journal(Path(sys.argv[1]))
    await journal.open()
    for n in range(1, 100000):
        uuid = f"vm-{n}"
        held = await journal.decide(Ballot(uuid, 2, "m1"), Decision.TAKEN if n % 3 else Decision.REFUSED,
                                    VmRecord(uuid, f"name-{n}", {"x": "y" * 500}, "h2", here=True, epoch=2))
        print("decided", n, held, flush=True)
        if n % 3:
            await journal.offer(uuid, Offer("h3", 3, f"m{n}"))
            print("offered", n, flush=True)
            journal.note_fact(f"m{n}", "source", FactRecord(0.0, "OfferDurable", {}))
            await journal.flush_facts()
            if n % 2:
                await journal.release(Move(f"m{n}", "x", uuid, "h2", "h3", epoch=3))
                print("released", n, flush=True)

asyncio.run(main())
"""


def told_by_a_killed_writer(path: Path, after_lines: int) -> list[str]:
    """Kill a process with SIGKILL while it writes; return what it had said to be durable by then."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(after_lines)]
        writer.kill()
        told += writer.stdout.readlines()
    return [line for line in told if line.endswith("\n")]  # its last words may have been cut off


@pytest.mark.parametrize("after_lines", [3, 40, 151, 500])
async def test_kill_9_in_the_middle_of_writes_leaves_all_that_was_told_and_nothing_half_done(
    path: Path, after_lines: int
) -> None:
    told = told_by_a_killed_writer(path, after_lines)
    assert len(told) >= after_lines
    journal = Journal(path)
    await journal.open()
    last = 0
    for line in told:
        what, number, *held = line.split()
        last, uuid = int(number), f"vm-{number}"
        known = await journal.vm_by_uuid(uuid)
        match what:
            case "decided":
                assert await journal.decision(Ballot(uuid, 2, "m1")) == held[0]
                assert (known is not None) == (held[0] == "taken")
            case "offered":
                assert known is not None
                assert known.offer == Offer("h3", 3, f"m{number}") or known.epoch == 3
            case "released":
                assert known is not None
                assert (known.owner, known.here, known.epoch, known.offer) == ("h3", False, 3, None)
    # what was under way when it died is there as a whole or not at all
    uuid = f"vm-{last + 1}"
    assert ((await journal.decision(Ballot(uuid, 2, "m1"))) is Decision.TAKEN) == (
        await journal.vm_by_uuid(uuid) is not None
    )
    await journal.define(vm())
    await journal.close()


async def test_changes_are_made_in_the_order_of_the_calls(journal: Journal) -> None:
    await journal.define(vm())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(journal.offer(UUID, Offer("h2", 2, "m1")))
        tasks.create_task(journal.withdraw(move(1)))
        tasks.create_task(journal.offer(UUID, Offer("h3", 3, "m2")))
        tasks.create_task(journal.release(move(vm_uuid=UUID, destination="h3", epoch=3)))
    assert await journal.vm_by_uuid(UUID) == vm(owner="h3", here=False, epoch=3)


async def test_it_is_as_durable_as_it_says(journal: Journal) -> None:
    def settings(db: sqlite3.Connection) -> tuple[str, int]:
        return db.execute("pragma journal_mode").fetchone()[0], db.execute("pragma synchronous").fetchone()[0]

    assert await journal._run(settings) == ("wal", 2)  # 2 is FULL


# --- the gate's question right after the decision ---------------------------------------------------------------------


async def test_what_was_decided_is_read_back_as_it_stands(journal: Journal) -> None:
    mine = vm(owner="h2", epoch=2)
    await journal.decide(Ballot(UUID, 2, "m1"), Decision.TAKEN, mine)
    told = await journal.vm_by_uuid(UUID)
    other = Journal(journal._path)
    await other.open()
    assert told == await other.vm_by_uuid(UUID) == mine
    await other.close()


async def test_a_write_that_was_asked_for_since_is_seen(journal: Journal) -> None:
    """Also one that is not through yet: it was asked for before the question."""
    await journal.decide(Ballot(UUID, 2, "m1"), Decision.TAKEN, vm(owner="h2", epoch=2))
    offering = asyncio.ensure_future(journal.offer(UUID, Offer("h3", 3, "m2")))
    await asyncio.sleep(0)
    told = await journal.vm_by_uuid(UUID)
    await offering
    assert told is not None
    assert told.offer == Offer("h3", 3, "m2")


async def test_a_decision_that_failed_is_not_told(journal: Journal) -> None:
    await journal.decide(Ballot(UUID, 2, "m1"), Decision.TAKEN, vm(owner="h2", epoch=2))
    with pytest.raises((Failed, TypeError)):
        await journal.decide(Ballot(UUID, 3, "m2"), Decision.TAKEN, vm(epoch=3, definition={"not": {"JSON"}}))
    told = await journal.vm_by_uuid(UUID)
    assert told is not None
    assert (told.owner, told.epoch) == ("h2", 2)


async def test_a_move_begins_with_an_empty_log_so_that_no_commit_in_it_has_to_clear_up(
    journal: Journal, path: Path, tmp_path: Path
) -> None:
    await journal.define(vm())
    await journal.begin_move(record())
    alone = tmp_path / "without-its-log.db"
    alone.write_bytes(path.read_bytes())  # noqa: ASYNC240 - nothing else runs
    with contextlib.closing(sqlite3.connect(alone)) as db:
        assert db.execute("select id from move").fetchall() == [("m1",)]
