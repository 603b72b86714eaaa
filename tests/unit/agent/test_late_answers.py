"""What a source says of an offer that nobody works on any more."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bascule.agent.late_answers import offer_standing
from bascule.journal.journal import Journal
from bascule.journal.records import MoveRecord, VmRecord
from bascule.migration.model import Move
from bascule.migration.ownership import Offer

UUID = "11111111-2222-3333-4444-555555555555"
MOVE = Move("m1", "web", UUID, "h1", "h2", epoch=2)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Any]:
    async def no_claim(_move_id: str) -> None:
        return None

    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    moves = SimpleNamespace(outgoing=lambda _move_id: None)
    yield SimpleNamespace(name="h1", journal=journal, moves=moves, claims=SimpleNamespace(of_move=no_claim))
    await journal.close()


async def test_an_offer_stands_until_it_is_withdrawn(host: Any) -> None:
    await host.journal.define(VmRecord(UUID, "web", {}, owner="h1", here=True, epoch=1))
    await host.journal.begin_move(MoveRecord(MOVE, "source", "10.0.0.2:7440", "2024-01-01T00:00:00.000+00:00"))
    await host.journal.offer(UUID, Offer("h2", 2, "m1"))
    assert (await offer_standing(host, "m1", UUID))["standing"]
    await host.journal.withdraw(MOVE)
    assert not (await offer_standing(host, "m1", UUID))["standing"]


async def test_a_move_that_is_forgotten_does_not_stand_any_more(host: Any) -> None:
    await host.journal.define(VmRecord(UUID, "web", {}, owner="h1", here=True, epoch=1))
    assert not (await offer_standing(host, "m1", UUID))["standing"]


async def test_a_journal_that_does_not_know_the_vm_withdraws_nothing(host: Any) -> None:
    """The host was set up anew, and the copy on the destination may be the last."""
    told = await offer_standing(host, "m1", UUID)
    assert told["standing"]
    assert "knows nothing of move m1" in told["reason"]
    assert not (await offer_standing(host, "m1", None))["standing"]  # an older agent does not say which VM
