"""`lab up` broken off at every step and at any moment: nothing stays that `lab down` does not find."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bascule.errors import Refused
from bascule.lab import removal
from bascule.lab.laboratory import Lab
from bascule.lab.removal import find_remains
from bascule.lab.status import look

pytestmark = pytest.mark.lab

SCRIPT = Path(__file__).with_name("break_off.py")
STAND_IN = Path(__file__).with_name("stand_in_agent.py")


def start(name: str, step: int, number: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), name, str(step), str(int(number)), str(STAND_IN)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def step_names(lab, stand_in):
    """Return the steps of building the lab that `break_off.py` builds."""
    names: list[str] = []
    it = lab(hosts=2, link_bit_s=10**9, shared_size_mib=8, agent_command=stand_in, on_step=names.append)
    it.down()
    return names


def test_down_removes_what_a_killed_up_left_at_every_step(lab_names, step_names):
    assert len(step_names) > 15
    for step, step_name in enumerate(step_names):
        name = lab_names()
        _, errors = (child := start(name, step, signal.SIGKILL)).communicate()
        assert child.returncode == -signal.SIGKILL, errors
        assert find_remains(name), f"nothing to remove before {step_name!r}"
        assert look(name)["state"] == "broken"
        assert Lab(name).down()
        assert not find_remains(name), f"killed before {step_name!r}"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -2)])
def test_up_that_is_asked_to_end_twice_removes_everything_by_itself(lab_names, step_names, number, status):
    for step, step_name in enumerate(step_names):
        name = lab_names()
        _, errors = (child := start(name, step, number)).communicate()
        assert child.returncode == status, errors
        assert not find_remains(name), f"signal {number.name} before {step_name!r}"


def test_down_removes_what_a_killed_up_left_at_any_moment(lab_names):
    moments = random.Random(7)
    for _ in range(15):
        name = lab_names()
        with start(name, -1, signal.SIGKILL) as child:
            child.stdout.readline()
            child.stdin.write(b"\n")
            child.stdin.flush()
            # Not a wait for anything: this is the moment, and every one is as good as another.
            time.sleep(moments.random() * 0.4)
            child.kill()
        Lab(name).down()
        assert not find_remains(name)


def test_down_that_is_killed_is_finished_by_the_next(lab, stand_in):
    moments = random.Random(8)
    for _ in range(5):
        name = lab(hosts=2, agent_command=stand_in).name
        code = f"from bascule.lab.laboratory import Lab; print('go', flush=True); Lab({name!r}).down()"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            time.sleep(moments.random() * 0.08)  # the moment, as above
            child.kill()
        Lab(name).down()
        assert not find_remains(name)


def test_of_two_at_the_same_moment_one_builds_and_the_other_is_refused(lab_names):
    for _ in range(4):
        name = lab_names()
        children = [start(name, -1, 0) for _ in range(2)]
        for child in children:
            child.stdout.readline()
        for child in children:
            child.stdin.write(b"\n")
            child.stdin.flush()
        outputs = [child.communicate() for child in children]
        assert sorted(child.returncode for child in children) == [0, 1], outputs
        assert any(b"refused: cannot build" in errors for _, errors in outputs), outputs
        assert look(name)["state"] == "up"
        assert all(host["agent"]["problem"] is None for host in look(name)["hosts"])
        Lab(name).down()


def test_a_lab_that_is_being_built_is_left_alone(lab_names, stand_in, monkeypatch):
    monkeypatch.setattr(removal, "_LOCK_WAIT_S", 0.1)
    name = lab_names()
    with start(name, 8, signal.SIGSTOP) as child:
        os.waitpid(child.pid, os.WUNTRACED)
        before = find_remains(name)
        assert look(name)["state"] == "changing"
        with pytest.raises(Refused, match="another process"):
            Lab(name).down()
        with pytest.raises(Refused, match="another process"):
            Lab(name).up(agent_command=stand_in)
        assert find_remains(name) == before
        child.send_signal(signal.SIGCONT)
        assert child.wait() == 0
    assert look(name)["state"] == "up"
    Lab(name).down()


def test_downs_at_the_same_moment_all_succeed(lab, stand_in):
    name = lab(hosts=2, agent_command=stand_in).name
    code = f"from bascule.lab.laboratory import Lab; input(); Lab({name!r}).down()"
    children = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) for _ in range(3)]
    for child in children:
        child.communicate(b"\n")
    assert [child.returncode for child in children] == [0, 0, 0]
    assert not find_remains(name)
