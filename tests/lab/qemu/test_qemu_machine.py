"""What a machine answers, says and does, on a real QEMU."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bascule.errors import Failed, Refused
from bascule.qemu.machine import QemuMachine
from bascule.qemu.process import ExitStatus, QemuExited, QemuProcess
from bascule.qemu.qmp import QmpDisconnected, QmpError, QmpEvent, QmpTimeout
from bascule.qemu.rx_filter import rx_filters

pytestmark = pytest.mark.lab


async def test_nothing_runs_before_it_is_let(bench: Any) -> None:
    machine = await bench.launch("one", kernel=bench.dirtier)
    assert await machine.status() == "prelaunch"
    await machine.let_vcpus_run()
    await bench.guest_runs(machine)
    await machine.stop_vcpus()
    assert await machine.status() == "paused"
    assert await bench.counter(machine) == await bench.counter(machine)


async def test_qemu_waits_at_its_monitor_for_the_first_client(bench: Any) -> None:
    spec = bench.spec("one")
    process = QemuProcess.start(spec.argv, directory=spec.directory, user=spec.user)
    machine = QemuMachine(process)
    bench.keep(machine)

    async def waits() -> bool:
        said = await asyncio.to_thread(Path(spec.directory, "qemu.log").read_text)
        return "waiting for connection" in said

    await bench.until(waits, "QEMU waits")
    await machine.reconnect()
    assert await machine.status() == "prelaunch"
    assert machine.process.stderr_tail() == "", "what it says at every start tells nobody anything"


async def test_concurrent_commands_each_get_their_own_answer(bench: Any) -> None:
    machine = await bench.launch("one")
    commands = ["query-status", "query-version", "query-name", "query-migrate", "query-kvm"] * 20
    answers = await asyncio.gather(*(machine.execute(command) for command in commands))
    for command, answer in zip(commands, answers, strict=True):
        assert answer == answers[commands.index(command)]
    assert len({str(answer) for answer in answers}) == 4, "name and migrate are both empty"


async def test_a_refusal_carries_qemus_words_and_class(bench: Any) -> None:
    machine = await bench.launch("one")
    with pytest.raises(QmpError) as raised:
        await machine.execute("no-such-command")
    assert raised.value.error_class == "CommandNotFound"
    assert "no-such-command" in raised.value.description


async def test_a_frozen_qemu_times_out_and_answers_again_later(bench: Any) -> None:
    machine = await bench.launch("one")
    os.kill(machine.record.pid, signal.SIGSTOP)
    with pytest.raises(QmpTimeout, match=r"query-status within 0\.2 s"):
        await machine.execute("query-status", deadline_s=0.2)
    os.kill(machine.record.pid, signal.SIGCONT)
    # The late answer to the first command is not taken for the answer to the next.
    assert (await machine.execute("query-version"))["qemu"]["major"] >= 7


async def test_a_timed_out_command_may_run_later(bench: Any) -> None:
    machine = await bench.launch("one")
    os.kill(machine.record.pid, signal.SIGSTOP)
    with pytest.raises(QmpTimeout):
        await machine.execute("cont", deadline_s=0.2)
    os.kill(machine.record.pid, signal.SIGCONT)

    async def running() -> bool:
        return await machine.status() == "running"

    await bench.until(running, "the late command ran")


async def test_every_subscriber_gets_events_in_order_until_it_unsubscribes(bench: Any) -> None:
    machine = await bench.launch("one")
    first: list[QmpEvent] = []
    second: list[QmpEvent] = []
    machine.subscribe(first.append)
    unsubscribe = machine.subscribe(second.append)
    await machine.let_vcpus_run()
    await machine.stop_vcpus()
    unsubscribe()
    unsubscribe()
    await machine.let_vcpus_run()
    assert [event.name for event in first] == ["RESUME", "STOP", "RESUME"]
    assert second == first[:2]
    assert [event.at_us for event in first] == sorted(event.at_us for event in first)


async def test_a_failing_subscriber_harms_neither_session_nor_others(bench: Any) -> None:
    machine = await bench.launch("one")
    heard: list[str] = []
    complaints: list[str] = []

    def fail(event: QmpEvent) -> None:
        raise RuntimeError(event.name)

    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context["message"]))
    machine.subscribe(fail)
    machine.subscribe(lambda event: heard.append(event.name))
    await machine.let_vcpus_run()
    assert heard == ["RESUME"]
    assert complaints == ["subscriber failed on QEMU's event RESUME"]
    assert await machine.status() == "running"


async def test_a_lost_session_is_noticed_and_reopened(bench: Any) -> None:
    machine = await bench.launch("one")
    heard: list[str] = []
    machine.subscribe(lambda event: heard.append(event.name))
    ended = asyncio.ensure_future(machine.disconnected())
    assert machine.connected
    await machine._session.close()
    assert await ended == "the session was closed"
    assert not machine.connected
    with pytest.raises(QmpDisconnected, match="cannot send query-status") as raised:
        await machine.status()
    assert not raised.value.maybe_ran
    await machine.reconnect()
    await machine.let_vcpus_run()
    assert heard == ["RESUME"]


async def test_a_death_during_a_command_is_told_with_the_exit(bench: Any) -> None:
    machine = await bench.launch("one")
    os.kill(machine.record.pid, signal.SIGSTOP)
    asking = asyncio.ensure_future(machine.status())
    await asyncio.sleep(0)
    machine.process.send_kill()
    with pytest.raises(QemuExited, match="SIGKILL") as raised:
        await asking
    assert isinstance(raised.value.__cause__, QmpDisconnected)
    assert raised.value.__cause__.maybe_ran


async def test_quit_is_orderly_and_ends_a_frozen_one_too(bench: Any) -> None:
    machine = await bench.launch("one")
    assert await machine.quit() == ExitStatus(code=0)
    frozen = await bench.launch("two")
    os.kill(frozen.record.pid, signal.SIGSTOP)
    assert await frozen.quit(deadline_s=0.2) == ExitStatus(signal=signal.SIGKILL)
    assert await frozen.quit() == ExitStatus(signal=signal.SIGKILL), "again does no harm"


async def test_a_guest_that_ignores_the_power_button_runs_on(bench: Any) -> None:
    machine = await bench.launch_busy("one")
    with pytest.raises(Failed, match=r"did not shut down within 0\.2 s"):
        await machine.stop(force=False, timeout_s=0.2)
    await bench.guest_runs(machine)
    assert await machine.stop(force=True, timeout_s=5) == ExitStatus(code=0)


async def test_a_guest_that_does_not_run_cannot_hear_the_button(bench: Any) -> None:
    machine = await bench.launch("one")
    with pytest.raises(Refused, match="prelaunch"):
        await machine.stop(force=False, timeout_s=5)
    assert await machine.status() == "prelaunch"


async def test_sigterm_ends_it_without_the_guest(bench: Any) -> None:
    machine = await bench.launch_busy("one")
    os.kill(machine.record.pid, signal.SIGTERM)
    assert await asyncio.wait_for(machine.exited(), 10) == ExitStatus(code=0)


async def test_the_filter_of_a_card_is_told_by_its_number(bench: Any) -> None:
    card = ("-device", "virtio-net-pci,id=nic1,mac=52:54:00:12:34:56,romfile=")
    machine = await bench.launch("one", extra=("-device", "virtio-net-pci,id=other,romfile=", *card))
    filters = await rx_filters(machine)
    assert set(filters) == {1}
    assert filters[1].promiscuous, "no driver has asked for less"
    assert bytes.fromhex("525400123456") in (filters[1].unicast or ())


async def test_a_qemu_that_does_not_answer_tells_no_filter(bench: Any) -> None:
    machine = await bench.launch("one")
    await machine.kill()
    assert await rx_filters(machine) == {}
