"""Completion: names from the table, from the agent, and silence when there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, Records, ScriptedAgent


def complete(cli: Cli, line: str) -> list[str]:
    """Return what bash is given for `line`, whose last word is being typed."""
    words = line.split(" ")
    done = cli(_BASCULE_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert done.stderr == ""
    return [entry.removeprefix("plain,") for entry in done.stdout.split()]


@pytest.fixture
def known(agent: ScriptedAgent, records: Records) -> ScriptedAgent:
    agent.ok("GET /v1/vms", [records.vm(), records.vm(name="db")])
    agent.ok("GET /v1/hosts", [{"name": n, "address": "", "self": n == "h1"} for n in ("h1", "h2", "h3")])
    agent.ok("GET /v1/moves", [records.move(), records.move(id="m-2", vm="db", outcome=None)])
    return agent


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bascule mi", ["migrate"]),
        ("bascule m", ["migrate", "moves"]),
        ("bascule vm st", ["start", "stop"]),
        ("bascule migrate ", ["web", "db"]),
        ("bascule migrate w", ["web"]),
        ("bascule migrate web ", ["h2", "h3"]),
        ("bascule vm console d", ["db"]),
        ("bascule report ", ["m-1", "m-2"]),
        ("bascule cancel ", ["db", "m-2"]),
        ("bascule status ", ["web", "db"]),
        ("bascule recover w", ["web"]),
        ("bascule recover web --run-here --confirm-down ", ["h2", "h3"]),
        ("bascule migrate web h2 --max", ["--max-blackout"]),
        ("bascule completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_words(cli: Cli, known: ScriptedAgent, line: str, expected: list[str]) -> None:
    assert complete(cli, line) == expected


def test_the_socket_of_the_command_line_counts(cli: Cli, known: ScriptedAgent) -> None:
    cli.environment["BASCULE_SOCKET"] = "/nowhere"

    assert complete(cli, f"bascule --socket {known.socket} vm show ") == ["web", "db"]


def test_silence_without_an_agent(cli: Cli, agent: ScriptedAgent) -> None:
    agent.die()

    assert complete(cli, "bascule vm show ") == []


def test_silence_when_the_agent_hangs_or_talks_nonsense(cli: Cli, agent: ScriptedAgent) -> None:
    never = threading.Event()
    agent.on("GET /v1/vms", [never])
    agent.ok("GET /v1/moves", {"surprise": 1})
    assert complete(cli, "bascule vm show ") == []
    assert complete(cli, "bascule report ") == []
    never.set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(cli: Cli, shell: str) -> None:
    done = cli("completion", shell)

    assert done.returncode == 0
    assert f"_BASCULE_COMPLETE={shell}_complete" in done.stdout


def test_bash_reads_the_script_and_completes(cli: Cli, known: ScriptedAgent) -> None:
    bash = shutil.which("bash")
    assert bash
    script = f"""
        PATH={Path(sys.executable).parent}:$PATH
        eval "$(bascule completion bash)"
        COMP_WORDS=(bascule migrate ""); COMP_CWORD=2
        _bascule_completion bascule
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        [bash, "-c", script], check=True, capture_output=True, text=True, timeout=30, env=cli.environment
    )
    assert done.stdout == "web db\n"
