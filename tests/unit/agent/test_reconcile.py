"""What a restarted agent makes of moves that it finds to be over."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bascule.agent.reconcile import _go_on_as_destination, bare_report
from bascule.journal.journal import Journal
from bascule.journal.records import Claim, MoveRecord, VmRecord
from bascule.journal.register import JournalRegister
from bascule.migration.model import Decision, Move, Outcome
from bascule.migration.ownership import BY_WORD_EPOCHS
from bascule.migration.register import Ballot


def test_its_time_counts_from_the_start_that_the_journal_holds_to_now() -> None:
    began = datetime.now(UTC) - timedelta(hours=2)
    record = MoveRecord(Move("m1", "web", "uuid", "h1", "h2", 2), "source", "10.0.0.2:7440", began.isoformat())

    report = bare_report(record, Outcome.COMPLETED, "the VM runs on h2", "h2")

    ended = datetime.now(UTC)
    assert 2 * 3600 <= report["total_s"] <= (ended - began).total_seconds() + 0.0001
    assert report["belongs_to"] == "h2"


async def test_a_destination_that_stood_down_and_died_has_nothing_left_to_do(tmp_path: Path) -> None:
    """The source has heard that it did, and claims nothing any more."""
    move = Move("m1", "web", "uuid", "h1", "h2", 2)
    record = MoveRecord(move, "destination", "10.0.0.1:7440", datetime.now(UTC).isoformat())
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    await journal.begin_move(record)
    taken = VmRecord("uuid", "web", {}, owner="h2", here=True, epoch=2)
    assert await JournalRegister(journal, taken).decide(Ballot.of(move), Decision.TAKEN) is Decision.TAKEN
    claim = Claim("uuid", "h1", 2 + BY_WORD_EPOCHS, "h2", "10.0.0.1:7440", "m1", "h2 is down", record.started_at)
    assert await journal.stand_down(claim)

    host: Any = SimpleNamespace(journal=journal, name="h2")
    assert not await _go_on_as_destination(host, record)

    ended = await journal.move("m1", "destination")
    assert ended is not None
    assert (ended.outcome, ended.reason) == ("refused", "an operator let the VM run on h1 meanwhile")
    await journal.close()
