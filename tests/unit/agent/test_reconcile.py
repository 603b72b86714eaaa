"""The report of a move that a restarted agent finds to be over."""

from datetime import UTC, datetime, timedelta

from bascule.agent.reconcile import bare_report
from bascule.journal.records import MoveRecord
from bascule.migration.model import Move, Outcome


def test_its_time_counts_from_the_start_that_the_journal_holds_to_now() -> None:
    began = datetime.now(UTC) - timedelta(hours=2)
    record = MoveRecord(Move("m1", "web", "uuid", "h1", "h2", 2), "source", "10.0.0.2:7440", began.isoformat())

    report = bare_report(record, Outcome.COMPLETED, "the VM runs on h2", "h2")

    ended = datetime.now(UTC)
    assert 2 * 3600 <= report["total_s"] <= (ended - began).total_seconds() + 0.0001
    assert report["belongs_to"] == "h2"
