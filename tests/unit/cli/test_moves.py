from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, Records, ScriptedAgent


def moves(records: Records) -> list[dict[str, object]]:
    return [
        records.move(),
        records.move(id="m-3", outcome=None, phase="copying", total_s=None, started_at="2025-01-01T12:00:00Z"),
        records.move(id="m-2", vm="db", started_at="2025-01-01T11:00:00Z", outcome="failed", reason="it broke"),
    ]


def test_moves_are_listed_newest_first(cli: Cli, agent: ScriptedAgent, records: Records) -> None:
    agent.ok("GET /v1/moves", moves(records))
    agent.ok("GET /v1/moves/m-2", moves(records)[2])
    lines = cli("moves").stdout.splitlines()

    assert [line.split()[0] for line in lines] == ["ID", "m-3", "m-2", "m-1"]
    assert lines[1].split() == ["m-3", "web", "h1", "h2", "live", "copying", "2025-01-01", "12:00:00", "-"]
    assert [move["id"] for move in json.loads(cli("moves", "--json").stdout)] == ["m-3", "m-2", "m-1"]
    assert cli("moves", "m-2").stdout.endswith("\nreason: it broke\n")
    assert json.loads(cli("moves", "m-2", "--json").stdout)["vm"] == "db"
    assert cli("moves", "absent").returncode == 1


def test_follow_watches_the_move_under_way_and_tells_its_outcome(
    cli: Cli, agent: ScriptedAgent, records: Records
) -> None:
    agent.ok("GET /v1/moves", moves(records))
    report = records.report(id="m-3", outcome="cancelled")
    agent.on("GET /v1/moves/m-3/events", [("progress", records.progress()), ("end", report)])
    done = cli("moves", "--follow", "--json")

    assert done.returncode == 3
    assert json.loads(done.stdout) == report
    assert done.stderr == ""


def test_follow_with_nothing_to_follow(cli: Cli, agent: ScriptedAgent, records: Records) -> None:
    agent.ok("GET /v1/moves", [records.move()])

    assert "no move is under way" in cli("moves", "--follow").stderr
    absent = cli("moves", "absent", "--follow", "--json")
    assert absent.returncode == 1
    assert json.loads(absent.stderr)["error"]["kind"] == "refused"


def test_cancel_by_vm_and_by_id(cli: Cli, agent: ScriptedAgent, records: Records) -> None:
    agent.ok("GET /v1/moves", moves(records))
    agent.ok("POST /v1/moves/m-3/cancel", {"accepted": True, "message": "cancelling"}, 202)
    agent.ok("POST /v1/moves/m-2/cancel", {"accepted": False, "message": "it has ended"})

    assert "cancelling\n" in cli("cancel", "web").stdout
    assert json.loads(cli("cancel", "m-3", "--json").stdout) == {
        "id": "m-3",
        "accepted": True,
        "message": "cancelling",
    }
    late = cli("cancel", "m-2")
    assert late.returncode == 1
    assert "cannot cancel move m-2 of vm db: it has ended" in late.stderr
    resting = cli("cancel", "db")
    assert resting.returncode == 1
    assert "neither a move nor a vm that is moving" in resting.stderr


def test_report_takes_the_newest_move_that_has_ended(cli: Cli, agent: ScriptedAgent, records: Records) -> None:
    agent.ok("GET /v1/moves", moves(records))
    agent.ok("GET /v1/moves/m-2/report", records.report(id="m-2"))
    agent.ok("GET /v1/moves/m-1/report", records.report())

    assert json.loads(cli("report", "--json").stdout)["id"] == "m-2"
    assert json.loads(cli("report", "m-1", "--json").stdout)["id"] == "m-1"
    text = cli("report")
    assert text.returncode == 0
    assert "web" in text.stdout


def test_report_as_a_page(cli: Cli, agent: ScriptedAgent, records: Records, tmp_path: Path) -> None:
    agent.ok("GET /v1/moves/m-1/report", records.report())
    page = tmp_path / "move.html"

    assert cli("report", "m-1", "--html", str(page)).returncode == 0
    assert "<html" in page.read_text().lower()
    assert [path.name for path in tmp_path.iterdir()] == ["move.html"]
    nowhere = cli("report", "m-1", "--html", str(tmp_path / "absent" / "move.html"))
    assert nowhere.returncode == 3
    assert "No such file or directory" in nowhere.stderr


def test_no_report_yet(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok("GET /v1/moves", [])

    assert cli("report").returncode == 1
    assert "bascule migrate" in cli("moves").stdout
