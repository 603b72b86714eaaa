"""What keeps the journal from growing: old moves go, long stories lose their middle, the log is written back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bascule.errors import Failed
from bascule.journal import journal as journal_module
from bascule.journal.journal import LONG_LOG_BYTES, MOST_FACTS, Journal
from bascule.journal.records import FactRecord, MoveRecord, VmRecord
from bascule.migration.model import Decision, Move
from bascule.migration.register import Ballot

UUID = "6f1c0000-0000-4000-8000-000000000001"
KEEP = 20


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = Journal(tmp_path / "journal.db", keep_moves=KEEP)
    await opened.open()
    yield opened
    await opened.close()


def incoming(number: int) -> MoveRecord:
    move = Move(f"m{number}", "web", UUID, "h1", "h2", epoch=number)
    return MoveRecord(move, "destination", "10.0.0.1:7440", "2025-01-01T10:00:00+00:00")


async def receive(journal: Journal, number: int) -> None:
    """One move to here from its beginning to its end, with a story of usual length."""
    record = incoming(number)
    await journal.begin_move(record)
    for at_s in range(30):
        journal.note_fact(record.move.id, "destination", FactRecord(at_s, "IncomingLoaded", {"note": "x" * 80}))
    taken = VmRecord(UUID, "web", {"name": "web"}, "h2", here=True, epoch=number)
    await journal.decide(Ballot.of(record.move), Decision.TAKEN, taken)
    await journal.flush_facts()
    await journal.end_incoming(record.move, "completed", "")


async def test_the_journal_stays_as_large_as_the_moves_that_it_keeps(journal: Journal) -> None:
    sizes = []
    for number in range(2, 202):
        await receive(journal, number)
        sizes.append(journal.size_bytes())

    assert len(await journal.moves_in_short()) == KEEP
    assert max(sizes) < 2 * LONG_LOG_BYTES
    assert max(sizes[100:]) <= max(sizes[:100]) + LONG_LOG_BYTES // 4


async def test_taken_is_never_forgotten(journal: Journal) -> None:
    for number in range(2, 102):
        await receive(journal, number)

    for number in range(2, 102):
        assert await journal.decision(Ballot(UUID, number, f"m{number}")) is Decision.TAKEN
        assert await journal.fate(Ballot(UUID, number, f"m{number}")) == "ran"


async def test_the_log_is_written_back_beside_no_decision(journal: Journal, tmp_path: Path) -> None:
    """A long log waits for a write that nobody waits for; the decision never pays for it."""
    log = tmp_path / "journal.db-wal"
    number = 1
    while log.stat().st_size <= LONG_LOG_BYTES:
        number += 1
        ballot = Ballot(UUID, number, f"m{number}")
        await journal.decide(ballot, Decision.REFUSED)
    await journal.decide(Ballot(UUID, number + 1, "m"), Decision.REFUSED)
    assert log.stat().st_size > LONG_LOG_BYTES

    await journal.set_process(UUID, None, None, "stopped")
    assert log.stat().st_size < LONG_LOG_BYTES
    assert await journal.decision(Ballot(UUID, number, f"m{number}")) is Decision.REFUSED


async def test_a_story_without_end_keeps_its_beginning_and_its_end(journal: Journal) -> None:
    await journal.begin_move(incoming(2))
    for number in range(3 * MOST_FACTS):
        journal.note_fact("m2", "destination", FactRecord(number, "NoAnswer"))
        if number % 500 == 0:
            await journal.flush_facts()
    await journal.flush_facts()

    kept = [int(fact.at_s) for fact in await journal.facts("m2", "destination")]
    half = MOST_FACTS // 2
    assert kept == [*range(half), *range(3 * MOST_FACTS - half, 3 * MOST_FACTS)]


async def test_facts_that_cannot_be_written_wait_in_bounded_memory(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MOST_FACTS_WAITING", 100)

    async def full(*_work: object, **_how: object) -> None:
        raise Failed("cannot use the journal: database or disk is full")

    monkeypatch.setattr(journal, "_write", full)
    for number in range(1000):
        journal.note_fact("m2", "destination", FactRecord(number, "NoAnswer"))
        if number % 30 == 0:
            with pytest.raises(Failed):
                await journal.flush_facts()
    monkeypatch.undo()
    await journal.begin_move(incoming(2))
    await journal.flush_facts()

    kept = [int(fact.at_s) for fact in await journal.facts("m2", "destination")]
    assert len(kept) <= 100
    assert kept[-1] == 999


async def test_moves_in_short_have_their_time_and_no_story(journal: Journal) -> None:
    move = Move("m2", "web", UUID, "h2", "h1", epoch=2)
    await journal.begin_move(MoveRecord(move, "source", "10.0.0.1:7440", "2025-01-01T10:00:00+00:00"))
    (under_way,) = await journal.moves_in_short()
    await journal.end_move("m2", "source", "completed", "", {"total_s": 1.5, "timeline": [1] * 1000})

    (ended,) = await journal.moves_in_short()
    assert under_way.report is None
    assert ended.report == {"total_s": 1.5}
    assert (ended.move, ended.outcome) == (move, "completed")
    whole = await journal.last_move(UUID)
    assert whole is not None
    assert whole.report is not None
    assert len(whole.report["timeline"]) == 1000
