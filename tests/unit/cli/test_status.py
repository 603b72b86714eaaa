from __future__ import annotations

import json
import os
import pty
import select
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.migration.source_transcript import LIVE

from bascule.cli.status import _text as text_of
from bascule.migration import source
from bascule.migration.explain import explain_source

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, ScriptedAgent

DEADLINE_S = 30.0
STATUS = "GET /v1/vms/web/status"
RECOVER = "POST /v1/vms/web/recover"


def unknown(**changes: Any) -> dict[str, Any]:
    found = explain_source(source.Unsettled(LIVE, None, None, source_gone=False, ask_again_s=1.0, why="no route"))
    record = {
        "vm": "web",
        "host": "h1",
        "owner": "h1",
        "epoch": 1,
        "move": "m-1",
        "summary": found.summary,
        "standing": "unknown",
        "known": list(found.known),
        "settles": list(found.settles),
        "choices": [{"action": choice.action, "risk": choice.risk} for choice in found.choices],
        "run_here_against": "h2",
    }
    return record | changes


def runs(**changes: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"move": None, "known": [], "settles": [], "choices": [], "run_here_against": None}
    return unknown(summary="vm web runs on h1", standing="settled", **nothing) | changes


def typed_at_a_terminal(cli: Cli, words: tuple[str, ...], answer: bytes) -> tuple[int, str]:
    """Run a command whose stdin is a terminal, and type once the prompt is there. Return status and stderr."""
    ours, theirs = pty.openpty()
    try:
        command = cli.spawn(*words, stdin=theirs)
        assert command.stderr is not None
        said = b""
        while not said.rstrip().endswith(b"type its name:"):
            assert select.select([command.stderr], [], [], DEADLINE_S)[0], said
            piece = os.read(command.stderr.fileno(), 65536)
            assert piece, said.decode()
            said += piece
        os.write(ours, answer)
        out, err = command.communicate(timeout=DEADLINE_S)
        return command.returncode, said.decode() + err + out
    finally:
        os.close(ours)
        os.close(theirs)


# --- status --------------------------------------------------------------------------------------------------------


def test_status_says_what_is_known_what_settles_it_and_what_each_choice_risks(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok(STATUS, unknown())
    done = cli("status", "web")

    assert done.returncode == 4
    lines = done.stdout.splitlines()
    assert lines[0] == "It is not known whether vm web runs on h2."
    assert [line for line in lines if line.endswith(":")] == [
        "What is known:",
        "What would settle it:",
        "What you can do:",
    ]
    assert "  The last try: no route." in lines
    at = lines.index("  bascule recover web --run-here")
    assert lines[at + 1].startswith("    risk: only if h2 is down for certain")
    assert done.stderr == ""


def test_status_of_what_is_settled_is_one_sentence(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok(STATUS, runs())
    done = cli("status", "web")

    assert (done.returncode, done.stdout) == (0, "VM web runs on h1.\n")


def test_status_as_json_is_what_the_agent_says(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok(STATUS, unknown())
    done = cli("status", "web", "--json")

    assert done.returncode == 4
    assert json.loads(done.stdout) == unknown()


def test_status_of_all(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok("GET /v1/status", [runs(vm="db", summary="vm db runs on h1"), unknown()])
    done = cli("status")

    assert done.returncode == 4
    assert [line.split()[:2] for line in done.stdout.splitlines()[:3]] == [
        ["VM", "STANDING"],
        ["db", "settled"],
        ["web", "unknown"],
    ]
    assert done.stdout.endswith("what can be done: bascule status web\n")
    assert len(json.loads(cli("status", "--json").stdout)) == 2
    agent.ok("GET /v1/status", [])
    none = cli("status")
    assert (none.returncode, "no VMs here" in none.stdout) == (0, True)


def test_a_vm_that_nobody_knows(cli: Cli, agent: ScriptedAgent) -> None:
    remedy = "see bascule vm list"
    agent.ok(STATUS, {"error": {"kind": "refused", "message": "vm web is not known", "remedy": remedy}}, 404)
    for command in ("status", "recover"):
        if command == "recover":
            agent.ok(RECOVER, {"error": {"kind": "refused", "message": "vm web is not known", "remedy": remedy}}, 404)
        done = cli(command, "web")
        assert done.returncode == 1
        assert remedy in done.stderr


def test_long_sentences_are_wrapped_on_a_terminal_alone() -> None:
    wide, narrow = text_of(unknown(), None), text_of(unknown(), 60)

    assert max(len(line) for line in wide.splitlines()) > 200
    assert max(len(line) for line in narrow.splitlines()) <= 60
    assert narrow.split() == wide.split()


# --- recover -------------------------------------------------------------------------------------------------------


def test_recover_tries_once_more(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok(RECOVER, runs())
    done = cli("recover", "web")

    assert (done.returncode, done.stdout) == (0, "VM web runs on h1.\n")
    assert agent.bodies("POST", "/v1/vms/web/recover") == [{"run_here": False, "confirmed_down": None}]


def test_recover_that_settles_nothing_is_unknown(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok(RECOVER, unknown())
    done = cli("recover", "web", "--json")

    assert done.returncode == 4
    assert json.loads(done.stdout)["standing"] == "unknown"


def test_run_here_without_a_terminal_needs_the_flag(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok(STATUS, unknown())
    agent.ok(RECOVER, runs())
    done = cli("recover", "web", "--run-here", stdin="h2\n")

    assert done.returncode == 1
    assert "there is no terminal to ask" in done.stderr
    assert "--confirm-down HOST" in done.stderr
    assert agent.bodies("POST", "/v1/vms/web/recover") == []
    assert cli("recover", "web", "--run-here", "--confirm-down", "h2").returncode == 0
    assert agent.bodies("POST", "/v1/vms/web/recover") == [{"run_here": True, "confirmed_down": "h2"}]


def test_run_here_shows_what_is_known_and_has_the_name_typed(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok(STATUS, unknown())
    agent.ok(RECOVER, runs())
    status, said = typed_at_a_terminal(cli, ("recover", "web", "--run-here"), b"h2\n")

    assert status == 0, said
    assert "only if h2 is down for certain" in " ".join(said.split())
    assert said.endswith("VM web runs on h1.\n")
    assert agent.bodies("POST", "/v1/vms/web/recover") == [{"run_here": True, "confirmed_down": "h2"}]


@pytest.mark.parametrize("answer", [b"h1\n", b"yes\n", b"H2\n", b"\x04"])
def test_run_here_takes_no_other_answer(cli: Cli, agent: ScriptedAgent, answer: bytes) -> None:
    agent.ok(STATUS, unknown())
    status, said = typed_at_a_terminal(cli, ("recover", "web", "--run-here"), answer)

    assert status == (130 if answer == b"\x04" else 1), said
    assert agent.bodies("POST", "/v1/vms/web/recover") == []


def test_run_here_is_not_even_asked_for_where_nothing_is_unknown(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok(STATUS, runs())
    done = cli("recover", "web", "--run-here")

    assert done.returncode == 1
    assert "vm web runs on h1" in done.stderr


def test_wrong_usage(cli: Cli, agent: ScriptedAgent) -> None:
    assert cli("recover", "web", "--confirm-down", "h2").returncode == 2
    assert cli("recover").returncode == 2
    assert agent.asked == []


def test_an_answer_that_never_comes_is_unknown(cli: Cli, agent: ScriptedAgent) -> None:
    def dies(_asked: object) -> Any:
        raise ConnectionResetError

    agent.on(RECOVER, dies)
    done = cli("recover", "web")

    assert done.returncode == 4
    assert "bascule status web" in done.stderr


def test_help_has_examples_and_the_exit_statuses(cli: Cli) -> None:
    for command in ("status", "recover"):
        said = cli(command, "--help").stdout
        assert "Examples:" in said
        assert "exit status" in " ".join(said.split())
