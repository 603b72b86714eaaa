import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bascule.qemu.process_record import ProcessRecord, boot_id, find_in, start_ticks


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose name would mislead a careless reader of /proc/<pid>/stat."""
    rename = "import sys; open('/proc/self/comm', 'w').write(') Z 1 ('); print(flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", rename], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with process:
        yield process
        process.kill()


def record_of(pid: int) -> ProcessRecord:
    return ProcessRecord(pid, start_ticks(pid) or 0, boot_id(), "/run/vm", ("qemu", "-S"))


def test_start_times_are_the_kernels_and_never_change(child: subprocess.Popen[bytes]) -> None:
    ticks = start_ticks(child.pid)
    assert ticks is not None
    uptime_ticks = float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK")
    assert (start_ticks(os.getpid()) or 0) <= ticks <= uptime_ticks
    assert start_ticks(child.pid) == ticks


def test_only_the_very_same_process_is_alive(child: subprocess.Popen[bytes]) -> None:
    record = record_of(child.pid)
    assert record.is_alive()
    assert not replace(record, start_ticks=record.start_ticks - 1).is_alive(), "an earlier owner of the pid"
    assert not replace(record, boot_id="another boot").is_alive()


def test_a_zombie_is_not_alive(child: subprocess.Popen[bytes]) -> None:
    record = record_of(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists(), "it is still a zombie"
    assert not record.is_alive()


def test_a_pid_that_nobody_has_is_not_alive(child: subprocess.Popen[bytes]) -> None:
    record = record_of(child.pid)
    child.kill()
    child.wait()
    assert start_ticks(child.pid) is None
    assert not record.is_alive()


def test_records_travel_as_json(child: subprocess.Popen[bytes]) -> None:
    record = record_of(child.pid)
    assert ProcessRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_processes_are_found_by_their_pidfile_alone(tmp_path: Path) -> None:
    directory = str(tmp_path / "vm")
    pidfile = f"{directory}/qemu.pid"
    waiting = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    lines = {
        "ours": [*waiting, "-pidfile", pidfile],
        "another directory": [*waiting, "-pidfile", f"{directory}2/qemu.pid"],
        "only mentions it": [*waiting, "tail", pidfile],
        "a shell about it": [*waiting, f"-pidfile {pidfile}"],
    }
    processes = {name: subprocess.Popen(line, stdin=subprocess.PIPE) for name, line in lines.items()}
    try:
        found = find_in(directory)
        assert [record.pid for record in found] == [processes["ours"].pid]
        assert found[0].argv == tuple(lines["ours"])
        assert found[0].is_alive()
    finally:
        for process in processes.values():
            with process:
                process.kill()
    assert find_in(directory) == []
