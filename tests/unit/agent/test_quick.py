"""What is left of the saved states of moves that have ended."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bascule.agent.quick import sweep_old_states
from bascule.journal.journal import Journal
from bascule.journal.records import MoveRecord, VmRecord
from bascule.migration.model import Mode, Move
from bascule.vm.parse import parse
from bascule.vm.serialise import to_dict

UUID = "11111111-2222-3333-4444-555555555555"
DEFINITION = to_dict(parse('name = "web"\nmemory = "256MiB"\n[boot]\nkernel = "/k"\n', "test", UUID))


async def test_only_states_of_moves_that_have_ended_here_are_removed(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    journal = Journal(tmp_path / "journal.db")
    await journal.open()
    await journal.define(VmRecord(UUID, "web", DEFINITION, owner="h1", here=True, epoch=9))
    outcomes = {"m1": "failed", "m2": "completed", "m3": "unknown", "m4": None}
    for epoch, (move_id, outcome) in enumerate(outcomes.items(), start=10):
        (shared / f"web.{move_id}0000000.bascule-state").touch()
        move = Move(f"{move_id}0000000", "web", UUID, "h1", "h2", epoch=epoch, mode=Mode.QUICK)
        await journal.begin_move(MoveRecord(move, "source", "10.0.0.2:7440", "2024-01-01T00:00:00.000+00:00"))
        if outcome is not None:
            await journal.end_move(move.id, "source", outcome, "", None)
    (shared / "web.m9999999.bascule-state").touch()  # another host's
    config = SimpleNamespace(shared_directories=(shared,))
    host: Any = SimpleNamespace(name="h1", journal=journal, config=config)
    await sweep_old_states(host)
    left = names_in(shared)
    assert left == ["web.m30000000.bascule-state", "web.m40000000.bascule-state", "web.m9999999.bascule-state"]
    shared.rename(tmp_path / "gone")
    await sweep_old_states(host)  # the storage is away: it is said in the log
    await journal.close()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
