from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from bascule.errors import Failed
from bascule.lab import processes
from bascule.lab.processes import MARK, Process

LAB = f"unit-{os.getpid()}"


@pytest.fixture
def start():
    started = []

    def one(script="exec sleep 1000", mark=None):
        environment = {**os.environ, **({MARK: mark} if mark else {})}
        child = subprocess.Popen(
            ["sh", "-c", f"trap '' HUP; echo up; {script}"], env=environment, stdout=subprocess.PIPE, bufsize=0
        )
        started.append(child)
        assert child.stdout.readline() == b"up\n"
        return child

    yield one
    for child in started:
        child.kill()
        child.communicate()


def found(**arguments):
    return processes.find(LAB, arguments.get("namespaces", ()), arguments.get("recorded", ()))


def test_a_process_is_found_by_its_mark_by_its_record_and_never_twice(start):
    marked, plain, other = start(mark=LAB), start(), start(mark=f"{LAB}x")
    recorded = Process.of(plain.pid)
    assert {process.pid for process in found(recorded=[recorded])} == {marked.pid, plain.pid}
    assert [process.pid for process in found()] == [marked.pid]
    assert other.poll() is None


def test_a_process_is_found_by_its_network_namespace():
    own = Path("/proc/self/ns/net").stat()
    assert os.getpid() in {process.pid for process in found(namespaces={(own.st_dev, own.st_ino)})}


def test_a_pid_that_was_given_to_another_process_is_not_the_recorded_one(start):
    child = start()
    stranger = Process(child.pid, Process.of(child.pid).start_ticks - 1)
    assert not stranger.is_alive()
    assert found(recorded=[stranger]) == []
    assert processes.send_and_wait([stranger], [signal.SIGKILL], timeout_s=10)
    assert child.poll() is None


def test_a_zombie_is_not_alive(start):
    child = start("exit 3", mark=LAB)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Process.of(child.pid) is None
    assert found() == []


def test_end_asks_first_and_kills_what_does_not_listen(start):
    polite, stubborn = start(mark=LAB), start("trap '' TERM; while :; do sleep 0.01; done", mark=LAB)
    stopped = start(mark=LAB)
    stopped.send_signal(signal.SIGSTOP)
    ended = processes.end(found, patience_s=0.3, deadline_s=10)
    assert {polite.pid, stubborn.pid, stopped.pid} <= {process.pid for process in ended}
    assert (polite.wait(), stubborn.wait(), stopped.wait()) == (-signal.SIGTERM, -signal.SIGKILL, -signal.SIGTERM)


def test_what_cannot_be_ended_is_named():
    immortal = Process(1, 0)  # never signalled: its start time is not that of pid 1
    with pytest.raises(Failed, match=r"do not end.* 1 \("):
        processes.end(lambda: [immortal], patience_s=0.01, deadline_s=0.01)
