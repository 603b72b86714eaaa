"""Starting, adopting and ending real QEMU processes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bascule.errors import Refused
from bascule.qemu.machine import QemuMachine
from bascule.qemu.process import ExitStatus, QemuExited, QemuProcess
from bascule.qemu.process_record import ProcessRecord, find_in
from bascule.qemu.qmp import QmpTimeout

pytestmark = pytest.mark.lab

# An agent that starts a QEMU, tells its record, and waits to be killed.
AGENT = """
import asyncio, json, sys
from bascule.qemu.machine import LaunchSpec, QemuMachine
from bascule.qemu.user import QemuUser

async def main():
    said = json.loads(sys.argv[1])
    spec = LaunchSpec(tuple(said["argv"]), said["directory"], QemuUser(*said["user"]))
    machine = await QemuMachine.launch(spec)
    await machine.let_vcpus_run()
    print(json.dumps(machine.record.to_dict()), flush=True)
    await machine.exited()

asyncio.run(main())
"""


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def files_of(directory: str) -> dict[str, tuple[int, int]]:
    """Owner and mode of `directory` and of all in it."""
    paths = (Path(directory), *Path(directory).iterdir())
    return {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in paths}


async def test_it_runs_unprivileged_sandboxed_in_a_session_and_directory_of_its_own(bench: Any) -> None:
    machine = await bench.launch("one")
    pid = machine.record.pid
    status = status_of(pid)
    assert status["Uid"].split() == [str(bench.user.uid)] * 4
    assert status["Gid"].split() == [str(bench.user.gid)] * 4
    assert status["Groups"] == ""
    assert int(status["CapEff"], 16) == 0
    assert status["Seccomp"] == "2"
    assert os.getsid(pid) == pid
    modes = files_of(machine.record.directory)
    assert {owner for owner, _ in modes.values()} == {bench.user.uid}
    assert modes["one"][1] == 0o700
    assert modes["qemu.log"][1] == 0o600


async def test_what_qemu_says_reaches_the_caller_and_nothing_is_left(bench: Any) -> None:
    with pytest.raises(QemuExited, match="nonsense") as raised:
        await bench.launch("one", extra=("-device", "nonsense"))
    assert raised.value.status == ExitStatus(code=1)
    assert not (bench.home / "one").exists()


async def test_a_missing_binary_is_refused_and_nothing_is_left(bench: Any) -> None:
    spec = bench.spec("one")
    with pytest.raises(Refused, match="/nowhere/qemu"):
        QemuProcess.start(("/nowhere/qemu", *spec.argv[1:]), directory=spec.directory, user=spec.user)
    assert not (bench.home / "one").exists()


async def test_a_directory_is_never_shared(bench: Any) -> None:
    await bench.launch("one")
    with pytest.raises(Refused, match="File exists"):
        await bench.launch("one")


async def test_a_cancelled_launch_leaves_nothing(bench: Any) -> None:
    # Without a monitor to connect to, the launch waits until it is cancelled.
    spec = bench.spec("one")
    argv = tuple(word for word in spec.argv if "qmp" not in word and word not in {"-chardev", "-mon"})
    launching = asyncio.ensure_future(QemuMachine.launch(type(spec)(argv, spec.directory, spec.user)))

    async def started() -> bool:
        return bool(find_in(spec.directory))

    await bench.until(started, "QEMU has started")
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert find_in(spec.directory) == []
    assert not (bench.home / "one").exists()


async def test_a_killed_process_tells_so_and_can_be_discarded(bench: Any) -> None:
    machine = await bench.launch("one")
    with pytest.raises(Refused, match="still runs"):
        machine.process.discard()
    waiting = asyncio.ensure_future(machine.exited())
    assert await machine.kill() == ExitStatus(signal=signal.SIGKILL)
    assert str(await waiting) == "was ended by SIGKILL"
    with pytest.raises(QemuExited, match="was ended by SIGKILL"):
        await machine.status()
    with pytest.raises(ProcessLookupError):  # the child was reaped
        os.kill(machine.record.pid, 0)
    await machine.discard()
    assert not (bench.home / "one").exists()


async def test_a_frozen_process_is_killed(bench: Any) -> None:
    machine = await bench.launch("one")
    os.kill(machine.record.pid, signal.SIGSTOP)
    assert await machine.kill() == ExitStatus(signal=signal.SIGKILL)


async def test_qemu_outlives_a_killed_agent_and_the_next_one_adopts_it(bench: Any) -> None:
    spec = bench.spec("one", kernel=bench.dirtier)
    said = {"argv": spec.argv, "directory": spec.directory, "user": (bench.user.uid, bench.user.gid)}
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", AGENT, json.dumps(said), stdout=subprocess.PIPE)
    assert agent.stdout is not None
    record = ProcessRecord.from_dict(json.loads(await agent.stdout.readline()))
    agent.kill()
    await agent.wait()

    assert find_in(spec.directory) == [record]
    machine = await QemuMachine.adopt(record)
    assert await machine.status() == "running"
    await bench.guest_runs(machine)
    assert await machine.kill() == ExitStatus(), "only the parent learns the status"
    assert find_in(spec.directory) == []
    with pytest.raises(QemuExited):
        QemuProcess.adopt(record)
    await machine.discard()


async def test_letting_go_leaves_it_running_for_another_session(bench: Any) -> None:
    machine = await bench.launch("one")
    await machine.let_vcpus_run()
    await machine.close()
    again = await QemuMachine.adopt(machine.record)
    assert await again.status() == "running"
    await again.close()


async def test_a_record_with_another_start_time_adopts_nothing(bench: Any) -> None:
    machine = await bench.launch("one")
    data = machine.record.to_dict() | {"start_ticks": machine.record.start_ticks + 1}
    with pytest.raises(QemuExited):
        QemuProcess.adopt(ProcessRecord.from_dict(data))
    assert machine.process.alive


async def test_a_frozen_one_is_adopted_without_a_session_and_answers_once_it_wakes(bench: Any) -> None:
    machine = await bench.launch("one")
    await machine.close()
    os.kill(machine.record.pid, signal.SIGSTOP)
    again = await QemuMachine.adopt(machine.record, deadline_s=0.3)
    assert not again.connected
    with pytest.raises(QmpTimeout, match=r"did not answer on .*qmp.sock within 0\.3 s"):
        await again.reconnect(deadline_s=0.3)
    os.kill(machine.record.pid, signal.SIGCONT)
    back = asyncio.Event()
    keeping = asyncio.ensure_future(again.keep_session(back.set))
    async with asyncio.timeout(30):
        await back.wait()
    keeping.cancel()
    assert await again.status() == "prelaunch"
    await again.close()


async def test_the_monitor_is_for_one_session_and_free_after_it(bench: Any) -> None:
    machine = await bench.launch("one")
    again = await QemuMachine.adopt(machine.record, deadline_s=0.3)
    assert not again.connected
    with pytest.raises(QmpTimeout, match="another client may hold its monitor"):
        await again.reconnect(deadline_s=0.3)
    await machine.close()
    await again.reconnect()
    assert again.connected
    await again.close()
