from __future__ import annotations

import asyncio
import os
import threading
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bascule.errors import Refused
from bascule.storage import state_reader
from bascule.storage.state_header import HEADER_BYTES, StateHeader, StateIdentity
from bascule.storage.state_reader import OpenState, open_checked
from bascule.storage.stoppable import Stop, StoppedError

IDENTITY = StateIdentity("3f1c", "web", 7, "m1", "pc-q35-7.2", "tcg")
STREAM = bytes(range(256)) * 20
GOOD = StateHeader(IDENTITY, len(STREAM), sha256(STREAM).hexdigest()).encode() + STREAM

on_one_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "web.m1.bascule-state"
    path.touch(0o600)
    return path


def check(path: Path, owner_uid: int | None = None) -> OpenState:
    return asyncio.run(open_checked(path, vm_uuid="3f1c", move_id="m1", owner_uid=owner_uid))


def test_a_good_state_is_opened_at_its_stream(path: Path):
    path.write_bytes(GOOD)
    with check(path) as state:
        assert state.header.identity == IDENTITY
        assert os.lseek(state.file, 0, os.SEEK_CUR) == HEADER_BYTES
        assert os.read(state.file, len(STREAM) + 1) == STREAM
        assert not os.get_inheritable(state.file)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(state.file)


@on_one_directory
@given(length=st.integers(0, len(GOOD) - 1))
def test_a_truncated_file_is_refused(path: Path, length: int):
    path.write_bytes(GOOD[:length])
    with pytest.raises(Refused):
        check(path)


@on_one_directory
@given(bit=st.integers(0, len(GOOD) * 8 - 1))
def test_any_flipped_bit_is_refused(path: Path, bit: int):
    data = bytearray(GOOD)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    with pytest.raises(Refused):
        check(path)


@on_one_directory
@given(extra=st.binary(min_size=1, max_size=10))
def test_appended_bytes_are_refused(path: Path, extra: bytes):
    path.write_bytes(GOOD + extra)
    with pytest.raises(Refused, match="bytes instead of"):
        check(path)


@on_one_directory
@given(start=st.binary(max_size=64))
def test_a_foreign_header_is_refused(path: Path, start: bytes):
    path.write_bytes(start.ljust(HEADER_BYTES, start[-1:] or b"\0") + STREAM)
    with pytest.raises(Refused):
        check(path)


def test_the_state_of_another_vm_or_move_is_refused(path: Path):
    path.write_bytes(GOOD)
    with pytest.raises(Refused, match=r"the state of VM web \(3f1c\), not of 4a2d"):
        asyncio.run(open_checked(path, vm_uuid="4a2d", move_id="m1"))
    with pytest.raises(Refused, match="saved by move m1, not by m2"):
        asyncio.run(open_checked(path, vm_uuid="3f1c", move_id="m2"))


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(Refused, match="No such file"):
        check(tmp_path / "none")


def test_a_symbolic_link_is_refused(path: Path):
    path.write_bytes(GOOD)
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(Refused, match="it is a symbolic link"):
        check(link)


def test_a_second_name_is_refused(path: Path):
    path.write_bytes(GOOD)
    path.with_name("second").hardlink_to(path)
    with pytest.raises(Refused, match="2 names"):
        check(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_file_that_others_may_use_is_refused(path: Path, mode: int):
    path.write_bytes(GOOD)
    path.chmod(mode)
    with pytest.raises(Refused, match=f"mode {mode:04o}"):
        check(path)


def test_a_file_of_somebody_else_is_refused(path: Path):
    path.write_bytes(GOOD)
    with pytest.raises(Refused, match=f"belongs to user {os.geteuid()}, not {os.geteuid() + 1}"):
        check(path, owner_uid=os.geteuid() + 1)


def test_a_directory_and_a_fifo_are_refused(tmp_path: Path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for odd in (tmp_path, fifo):
        with pytest.raises(Refused, match="not a regular file"):
            check(odd)


@pytest.mark.parametrize("too_late_to_stop", [False, True])
def test_cancelled_checking_keeps_no_descriptor(path: Path, monkeypatch: pytest.MonkeyPatch, too_late_to_stop: bool):
    started = threading.Event()

    def until_stopped(_file: int, _header: StateHeader, stop: Stop) -> None:
        started.set()
        try:
            while True:
                stop.check()
        except StoppedError:
            if not too_late_to_stop:
                raise

    async def cancelled() -> None:
        async with asyncio.TaskGroup() as group:
            checking = group.create_task(open_checked(path, vm_uuid="3f1c", move_id="m1"), name="checking")
            await asyncio.to_thread(started.wait)
            checking.cancel()
        assert checking.cancelled()

    path.write_bytes(GOOD)
    monkeypatch.setattr(state_reader, "_check_stream", until_stopped)
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    asyncio.run(cancelled())
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
