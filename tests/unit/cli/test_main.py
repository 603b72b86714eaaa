"""Errors become sentences, JSON and exit statuses, and never a status that lies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, Records, ScriptedAgent


def test_help_documents_the_exit_statuses(cli: Cli) -> None:
    done = cli("--help")

    assert done.returncode == 0
    for line in ("0  done", "1  refused", "2  wrong usage", "3  failed", "4  unknown"):
        assert line in done.stdout


@pytest.mark.parametrize("arguments", [("vm", "fly"), ("migrate", "web"), ("migrate", "web", "h2", "--deadline", "5")])
def test_wrong_usage_is_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: bascule" in done.stderr


def test_wrong_usage_as_json(cli: Cli) -> None:
    done = cli("migrate", "web", "h2", "--deadline", "5", "--json")

    error = json.loads(done.stderr)["error"]
    assert done.returncode == 2
    assert error["kind"] == "usage"
    assert "'5' is no duration" in error["message"]
    assert error["remedy"] == "see: bascule migrate --help"


def test_no_agent_is_one_sentence_and_a_remedy(cli: Cli, agent: ScriptedAgent) -> None:
    agent.die()
    done = cli("vm", "list")

    assert (done.returncode, done.stdout) == (1, "")
    message, remedy = done.stderr.splitlines()
    assert message == f"bascule: no agent is running behind the socket {agent.socket}"
    assert remedy.startswith("start it with: bascule agent --config ")


def test_the_socket_may_be_named_on_either_side_of_the_command(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok("GET /v1/vms", [])
    for arguments in (["--socket", agent.socket, "vm", "list"], ["vm", "list", "--socket", agent.socket]):
        assert cli(*arguments, BASCULE_SOCKET="/nowhere").returncode == 0
    assert "/nowhere" in cli("vm", "list", BASCULE_SOCKET="/nowhere").stderr
    assert cli("--socket", "/" + "x" * 200, "vm", "list").returncode == 1


@pytest.mark.parametrize(
    ("status", "kind", "exit_status"),
    [(409, "refused", 1), (404, "refused", 1), (500, "failed", 3), (503, "unknown", 4)],
)
def test_the_agents_errors_keep_their_kind(
    cli: Cli, agent: ScriptedAgent, status: int, kind: str, exit_status: int
) -> None:
    findings = [{"subject": "memory_mib", "problem": "is 12", "remedy": "at least 64"}]
    agent.ok(
        "POST /v1/vms/web/start",
        {"error": {"kind": kind, "message": "it did not work", "remedy": "do this", "findings": findings}},
        status,
    )
    text, as_json = cli("vm", "start", "web"), cli("vm", "start", "web", "--json")

    assert (text.returncode, text.stdout) == (exit_status, "")
    assert text.stderr.splitlines() == [
        "bascule: it did not work",
        "  - memory_mib: is 12 (at least 64)",
        "do this",
    ]
    assert (as_json.returncode, as_json.stdout) == (exit_status, "")
    assert json.loads(as_json.stderr) == {
        "error": {"kind": kind, "message": "it did not work", "remedy": "do this", "findings": findings}
    }


def test_what_others_wrote_cannot_steer_the_terminal(cli: Cli, agent: ScriptedAgent) -> None:
    error = {
        "kind": "failed",
        "message": "QEMU said \x1b[2J\x9b1mboo\r",
        "remedy": "line\nbreaks\tstay",
        "findings": [],
    }
    agent.ok("POST /v1/vms/web/start", {"error": error}, 500)

    assert cli("vm", "start", "web").stderr == ("bascule: QEMU said \\x1b[2J\\x9b1mboo\\x0d\nline\nbreaks\tstay\n")


def test_http_errors_without_the_agents_form(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok("POST /v1/vms/web/start", {"detail": "what?"}, 422)
    assert cli("vm", "start", "web").returncode == 1
    agent.ok("POST /v1/vms/web/start", b"Internal Server Error", 500)
    done = cli("vm", "start", "web")
    assert done.returncode == 4
    assert "bascule vm show web" in done.stderr


def test_an_answer_that_breaks_our_code_is_not_called_refused(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok("GET /v1/vms", [{"name": "web"}])
    done = cli("vm", "list")

    assert done.returncode == 4
    assert "defect of bascule" in done.stderr


def test_a_reader_that_goes_away_changes_nothing(cli: Cli, agent: ScriptedAgent, records: Records) -> None:
    agent.ok("GET /v1/vms", [records.vm()])
    reading, writing = os.pipe()
    os.close(reading)
    process = cli.spawn("vm", "list", stdout=writing)
    os.close(writing)

    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0


@pytest.mark.parametrize(("arguments", "status"), [(["vm", "list"], 130), (["vm", "stop", "web"], 4)])
def test_ctrl_c_is_130_only_where_nothing_was_in_progress(
    cli: Cli, agent: ScriptedAgent, arguments: list[str], status: int
) -> None:
    import threading  # noqa: PLC0415

    never = threading.Event()
    agent.on("GET /v1/vms", [never])
    agent.on("POST /v1/vms/web/stop", [never])
    process = cli.spawn(*arguments)
    agent.arrivals.get(timeout=30)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=30)[1]
    never.set()

    assert process.returncode == status
    assert "Traceback" not in stderr
    if status == 4:
        assert "look with: bascule vm show web" in stderr


def test_a_connection_lost_midway_is_unknown_for_a_change_and_refused_for_a_look(
    cli: Cli, agent: ScriptedAgent
) -> None:
    def hang_up(_asked: object) -> object:
        raise ConnectionAbortedError

    agent.on("POST /v1/vms/web/start", hang_up)  # type: ignore[arg-type]
    agent.on("GET /v1/vms", hang_up)  # type: ignore[arg-type]
    change, look = cli("vm", "start", "web"), cli("vm", "list")

    assert change.returncode == 4
    assert "its answer never came: the agent closed the connection" in change.stderr
    assert "look with: bascule vm show web" in change.stderr
    assert look.returncode == 1


def test_a_terminal_that_knows_no_signs_beyond_ascii_breaks_nothing(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok("POST /v1/vms/web/start", {"error": {"kind": "failed", "message": "h1 → h2", "remedy": ""}}, 500)
    done = cli("vm", "start", "web", PYTHONIOENCODING="ascii")

    assert (done.returncode, done.stderr) == (3, "bascule: h1 ? h2\n")


def test_the_module_can_be_run_as_a_script() -> None:
    import sys  # noqa: PLC0415

    done = subprocess.run(
        [sys.executable, "-m", "bascule.cli.main", "--version"], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.startswith("bascule, version ")
