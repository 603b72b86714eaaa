"""`bascule lab status|run|down` on labs with stand-ins for the agents."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from bascule.cli.lab import lab as lab_commands
from bascule.lab import removal

pytestmark = pytest.mark.lab

BASCULE = [sys.executable, "-m", "bascule.cli.main"]


def bascule(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BASCULE, *arguments], capture_output=True, text=True, check=False, timeout=60, **options)


def test_status_as_text_and_as_json(lab, stand_in):
    it = lab(hosts=2, link_bit_s=10**8, agent_command=stand_in)
    it.cut_link("h2")
    it.kill_agent("h2")
    text = bascule("lab", "status", it.name).stdout
    lines = [line.split(maxsplit=3) for line in text.splitlines()]
    assert text.startswith(f"lab {it.name}: up, links 100mbit")
    assert lines[2][:3] == ["h1", "10.77.0.1", "up"]
    assert "vm-of-h1 running" in lines[2][3]
    assert lines[3] == ["h2", "10.77.0.2", "black", "hole  the agent does not run"]
    assert lines[4][:3] == ["client", "10.77.0.100", "up"]
    found = {each["name"]: each for each in json.loads(bascule("lab", "status", "--json").stdout)}
    assert [host["name"] for host in found[it.name]["hosts"]] == ["h1", "h2"]


def test_run_is_the_command_itself(lab, stand_in):
    it = lab(hosts=1, agent_command=stand_in)
    script = 'read line; echo "$line $BASCULE_SOCKET $*"; command -v bascule; echo words >&2; exit 7'
    arguments = ["lab", "run", "--lab", it.name, "h1", "--", "sh", "-c", script, "sh", "--lab", "--", "-x"]
    done = bascule(*arguments, input="hello\n")
    assert done.returncode == 7
    first, second = done.stdout.splitlines()
    assert first == f"hello {it.host('h1').socket} --lab -- -x"
    assert second.startswith(os.path.dirname(sys.executable))  # noqa: PTH120 - PATH holds texts
    assert done.stderr == "words\n"


def test_run_passes_signals_on(lab, stand_in):
    it = lab(hosts=1, agent_command=stand_in)
    arguments = ["lab", "run", "--lab", it.name, "client", "--", "sh", "-c", "echo up; exec sleep 1000"]
    with subprocess.Popen([*BASCULE, *arguments], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"up\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=30) == -signal.SIGINT


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["run", "--lab", "{}", "h9", "--", "true"], 1, "has no member h9"),
        (["run", "--lab", "nobodys-lab", "h1", "--", "true"], 1, "there is no lab nobodys-lab"),
        (["run", "--lab", "{}", "h1"], 2, "COMMAND"),
        (["run", "--lab", "{}", "h1", "--"], 2, "COMMAND"),
        (["status", "nobodys-lab"], 1, "there is no lab nobodys-lab"),
        (["down", "Wrong_Name"], 1, "cannot be called"),
        (["down", "x", "--all"], 2, "not both"),
        (["up", "{}"], 1, "there already"),
        (["up", "x", "--link", "fast"], 1, "no rate"),
    ],
)
def test_mistakes(lab, stand_in, arguments, status, words):
    name = lab(hosts=1, agent_command=stand_in).name
    done = bascule("lab", *(argument.format(name) for argument in arguments))
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr


def test_down_says_what_it_removed_and_is_content_with_nothing(lab, stand_in):
    name = lab(hosts=1, agent_command=stand_in).name
    done = bascule("lab", "down", name)
    assert done.returncode == 0
    assert done.stdout.startswith(f"removed lab {name}:\n  1 process: ")
    assert f"3 namespaces: bsc-{name}-client, bsc-{name}-h1, bsc-{name}-sw" in done.stdout
    done = bascule("lab", "down", name)
    assert (done.returncode, done.stdout.split(";")[0].strip()) == (0, f"there is no lab {name}")


# The user changes only once everything is imported: Python or the clone may lie in a folder of root's.
AS_NOBODY = """
import importlib, os, pkgutil
import bascule.cli, bascule.lab
for package in (bascule.cli, bascule.lab):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
from bascule.cli.main import main
os.setuid(65534)
raise SystemExit(main())
"""


def test_an_ordinary_user_is_refused_before_anything_is_touched(lab_names):
    for arguments in (["up", lab_names()], ["down"], ["status"], ["run", "h1", "--", "true"]):
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, "lab", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "only root" in done.stderr
        assert "sudo" in done.stderr


def test_down_all_removes_every_lab(lab, stand_in, monkeypatch):
    names = [lab(hosts=1, agent_command=stand_in).name for _ in range(2)]
    assert set(names) <= set(removal.known_labs())
    # The machine may hold labs of others: all means all of this test's.
    monkeypatch.setattr(removal, "known_labs", lambda: names)
    done = CliRunner().invoke(lab_commands, ["down", "--all"], catch_exceptions=False)
    assert [line for line in done.output.splitlines() if line.startswith("removed")] == [
        f"removed lab {name}:" for name in names
    ]
