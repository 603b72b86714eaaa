"""The process itself, with a shell in QEMU's place: nothing here needs QEMU or root."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from bascule.errors import Refused
from bascule.qemu.process import ExitStatus, QemuExited, QemuProcess, read_log


def start(directory: Path, script: str, *, pass_fds: tuple[int, ...] = ()) -> QemuProcess:
    return QemuProcess.start(("/bin/sh", "-c", script), directory=str(directory), pass_fds=pass_fds)


async def end_of(process: QemuProcess) -> ExitStatus:
    return await asyncio.wait_for(process.exited(), 10)


async def test_exit_codes_and_last_words(tmp_path: Path) -> None:
    process = start(tmp_path / "vm", "echo to stdout; echo to stderr >&2; exit 3")
    assert await end_of(process) == ExitStatus(code=3)
    assert process.stderr_tail() == "to stdout\nto stderr"
    assert not process.alive
    with pytest.raises(QemuExited, match="exited with status 3 and said: to stdout\nto stderr"):
        process.raise_if_exited()


async def test_signals_are_named(tmp_path: Path) -> None:
    process = start(tmp_path / "vm", "kill -ABRT $$")
    assert str(await end_of(process)) == "was ended by SIGABRT"


async def test_it_has_a_session_a_root_directory_and_no_input_of_its_own(tmp_path: Path) -> None:
    process = start(tmp_path / "vm", "ps -o sid= -p $$ || cut -d' ' -f6 /proc/$$/stat; pwd; umask; cat; env | sort")
    await end_of(process)
    session, folder, umask, *environment = process.stderr_tail().split("\n")
    assert int(session) == process.record.pid
    assert (folder, umask) == ("/", "0077")
    assert {line.partition("=")[0] for line in environment} <= {"LC_ALL", "PATH", "PWD", "OLDPWD", "SHLVL", "_"}


async def test_descriptors_keep_their_numbers_and_no_others_pass(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    kept_reading, kept_writing = os.pipe()
    os.set_inheritable(kept_writing, True)
    script = f"echo here >/proc/self/fd/{writing}; echo there >/proc/self/fd/{kept_writing}"
    process = start(tmp_path / "vm", script, pass_fds=(writing,))
    os.close(writing)
    await end_of(process)
    assert os.read(reading, 100) == b"here\n"
    os.close(kept_writing)
    assert os.read(kept_reading, 100) == b""
    os.close(reading)
    os.close(kept_reading)


async def test_many_may_wait_and_one_of_them_give_up(tmp_path: Path) -> None:
    process = start(tmp_path / "vm", "exec sleep 600")
    first, second = asyncio.ensure_future(process.exited()), asyncio.ensure_future(process.exited())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    process.send_kill()
    assert await asyncio.wait_for(second, 10) == ExitStatus(signal=signal.SIGKILL)
    assert await process.exited() == ExitStatus(signal=signal.SIGKILL)
    assert await process.kill() == ExitStatus(signal=signal.SIGKILL)


async def test_closing_leaves_it_running_and_adopting_watches_it_again(tmp_path: Path) -> None:
    process = start(tmp_path / "vm", "exec sleep 600")
    process.close()
    process.close()
    adopted = QemuProcess.adopt(process.record)
    assert adopted.alive
    assert await adopted.kill() == ExitStatus(signal=signal.SIGKILL)
    with pytest.raises(QemuExited, match="has ended"):
        QemuProcess.adopt(process.record)
    adopted.discard()


async def test_the_directory_goes_only_after_the_process(tmp_path: Path) -> None:
    directory = tmp_path / "vm"
    process = start(directory, "exec sleep 600")
    assert directory.stat().st_mode & 0o777 == 0o700
    with pytest.raises(Refused, match="still runs"):
        process.discard()
    assert directory.exists()
    await process.kill()
    process.discard()
    assert not directory.exists()


async def test_what_cannot_start_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="File exists"):
        start(tmp_path, "true")
    with pytest.raises(Refused, match="No such file or directory"):
        start(tmp_path / "missing" / "vm", "true")
    with pytest.raises(Refused, match="/nowhere"):
        QemuProcess.start(("/nowhere",), directory=str(tmp_path / "vm"))
    assert not (tmp_path / "vm").exists()


def test_a_log_is_read_from_its_end_and_never_through_traps(tmp_path: Path) -> None:
    assert read_log(str(tmp_path)) == ""
    log = tmp_path / "qemu.log"
    log.write_text("x" * 100_000 + "\nlast line\n")
    assert read_log(str(tmp_path)).endswith("x\nlast line")
    assert len(read_log(str(tmp_path))) < 10_000
    log.write_text("info: QEMU waiting for connection on: disconnected:unix:/qmp.sock,server=on\n")
    assert read_log(str(tmp_path)) == ""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    log.unlink()
    log.symlink_to(secret)
    assert read_log(str(tmp_path)) == ""
    log.unlink()
    os.mkfifo(log)
    assert read_log(str(tmp_path)) == ""
