from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import threading
from pathlib import Path

import pytest

from bascule.errors import Failed, Refused
from bascule.storage.state_file import StateWriter, remove_state, state_path, sweep
from bascule.storage.state_header import HEADER_BYTES, StateHeader, StateIdentity
from bascule.storage.state_reader import open_checked

IDENTITY = StateIdentity("3f1c", "web", 7, "m1", "pc-q35-7.2", "tcg")
PART = ".web.m1.bascule-state.part"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def pipe_with(stream: bytes) -> int:
    """A pipe that another thread writes `stream` into, in odd pieces, and then closes."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            for start in range(0, len(stream), 77_777):
                pipe.write(stream[start : start + 77_777])

    threading.Thread(target=write, name="like-qemu").start()
    return reading


@pytest.mark.parametrize("length", [0, 1, 4096, (1 << 20) - 1, 1 << 20, (5 << 20) + 12345])
async def test_the_stream_arrives_whole(tmp_path: Path, length: int):
    stream = os.urandom(length)
    async with await StateWriter.create(tmp_path, IDENTITY, expected_bytes=length) as writer:
        assert names(tmp_path) == [PART]
        assert await writer.receive(pipe_with(stream)) == length
        assert names(tmp_path) == [PART], "it has no name before QEMU is known to be content"
        saved = await writer.commit()
    assert names(tmp_path) == ["web.m1.bascule-state"]
    assert saved.path == state_path(tmp_path, IDENTITY)
    assert saved.header == StateHeader(IDENTITY, length, hashlib.sha256(stream).hexdigest())
    content = saved.path.read_bytes()
    assert StateHeader.decode(content[:HEADER_BYTES]) == saved.header
    assert content[HEADER_BYTES:] == stream


async def test_hashing_that_is_slower_than_the_pipe_sees_every_byte(tmp_path: Path):
    class SlowDigest:
        def __init__(self) -> None:
            self.digest = hashlib.sha256()

        def update(self, block: memoryview) -> None:
            threading.Event().wait(0.02)
            self.digest.update(block)

        def hexdigest(self) -> str:
            return self.digest.hexdigest()

    stream = os.urandom(4 << 20)
    async with await StateWriter.create(tmp_path, IDENTITY, expected_bytes=len(stream)) as writer:
        writer._digest = SlowDigest()
        await writer.receive(pipe_with(stream))
        saved = await writer.commit()
    assert saved.header.stream_sha256 == hashlib.sha256(stream).hexdigest()


async def test_nobody_else_may_read_it_at_any_time(tmp_path: Path):
    previous = os.umask(0)
    try:
        async with await StateWriter.create(tmp_path, IDENTITY, expected_bytes=1) as writer:
            assert stat.S_IMODE((tmp_path / PART).stat().st_mode) == 0o600
            await writer.receive(pipe_with(b"x"))
            saved = await writer.commit()
        assert stat.S_IMODE(saved.path.stat().st_mode) == 0o600
    finally:
        os.umask(previous)


async def test_what_is_not_committed_leaves_nothing(tmp_path: Path):
    async with await StateWriter.create(tmp_path, IDENTITY, expected_bytes=5) as writer:
        await writer.receive(pipe_with(b"hello"))
    assert names(tmp_path) == []
    await writer.discard()


async def test_an_unfinished_part_is_refused_even_under_the_right_name(tmp_path: Path):
    async with await StateWriter.create(tmp_path, IDENTITY, expected_bytes=5) as writer:
        await writer.receive(pipe_with(b"hello"))
        os.link(tmp_path / PART, tmp_path / "other")
    with pytest.raises(Refused, match="never finished"):
        await open_checked(tmp_path / "other", vm_uuid="3f1c", move_id="m1")


async def test_an_error_in_between_leaves_nothing(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        async with await StateWriter.create(tmp_path, IDENTITY, expected_bytes=5):
            raise ZeroDivisionError
    assert names(tmp_path) == []


async def test_cancelled_while_waiting_for_qemu_it_leaves_nothing_and_breaks_the_pipe(tmp_path: Path):
    reading, writing = os.pipe()
    os.write(writing, b"the beginning")
    writer = await StateWriter.create(tmp_path, IDENTITY, expected_bytes=5)

    async def save() -> None:
        async with writer:
            await writer.receive(reading)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await save()
    assert names(tmp_path) == []
    with pytest.raises(BrokenPipeError):
        os.write(writing, b"more")
    os.close(writing)


async def test_a_stream_that_was_cut_off_cannot_be_committed(tmp_path: Path):
    async with await StateWriter.create(tmp_path, IDENTITY, expected_bytes=5) as writer:
        with pytest.raises(RuntimeError, match="before the whole stream"):
            await writer.commit()


async def test_two_writers_of_one_move_do_not_mix(tmp_path: Path):
    async with await StateWriter.create(tmp_path, IDENTITY, expected_bytes=5):
        with pytest.raises(Refused, match=r"bascule-state\.part exists"):
            await StateWriter.create(tmp_path, IDENTITY, expected_bytes=5)


async def test_a_link_in_its_place_is_not_followed(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / PART).symlink_to(victim)
    with pytest.raises(Refused):
        await StateWriter.create(tmp_path, IDENTITY, expected_bytes=5)
    assert victim.read_bytes() == b"precious"


async def test_a_missing_directory_is_refused(tmp_path: Path):
    with pytest.raises(Refused, match=r"cannot save the state of VM web in .*nowhere: No such file"):
        await StateWriter.create(tmp_path / "nowhere", IDENTITY, expected_bytes=5)


@pytest.mark.parametrize("name", ["../etc/passwd", "a/b", "/a", ".hidden", "..", ""])
async def test_names_that_would_lead_elsewhere_are_refused(tmp_path: Path, name: str):
    with pytest.raises(Refused, match="no file can be named so"):
        state_path(tmp_path, StateIdentity("u", name, 1, "m1", "q35", "tcg"))
    with pytest.raises(Refused, match="no file can be named so"):
        state_path(tmp_path, StateIdentity("u", "web", 1, name, "q35", "tcg"))


async def test_a_failed_commit_leaves_nothing(tmp_path: Path):
    async with await StateWriter.create(tmp_path, IDENTITY, expected_bytes=5) as writer:
        await writer.receive(pipe_with(b"hello"))
        (tmp_path / "web.m1.bascule-state").mkdir()  # a directory cannot be replaced by a file
        with pytest.raises(Failed, match="cannot save the state of VM web"):
            await writer.commit()
    assert names(tmp_path) == ["web.m1.bascule-state"]
    assert (tmp_path / "web.m1.bascule-state").is_dir()


async def test_writers_leak_no_descriptors(tmp_path: Path):
    async def cycle() -> int:
        async with await StateWriter.create(tmp_path, IDENTITY, expected_bytes=5) as writer:
            await writer.receive(pipe_with(b"hello"))
            saved = await writer.commit()
        with await open_checked(saved.path, vm_uuid="3f1c", move_id="m1"):
            pass
        with pytest.raises(Refused):
            await open_checked(saved.path, vm_uuid="3f1c", move_id="m2")
        remove_state(saved.path)
        return open_descriptors()

    first = await cycle()
    assert [await cycle() for _ in range(5)] == [first] * 5


def test_removing_what_is_gone_is_fine(tmp_path: Path):
    remove_state(tmp_path / "web.m1.bascule-state")


def test_a_directory_that_cannot_be_swept_is_a_failure(tmp_path: Path):
    with pytest.raises(Failed, match="cannot look for left-over states"):
        sweep(tmp_path / "none", {"m1"})


def test_sweeping_removes_what_ended_moves_left_and_nothing_else(tmp_path: Path):
    for name in (
        "web.m1.bascule-state", PART, "web.m2.bascule-state", ".web.m2.bascule-state.part", "db.v1.m3.bascule-state",
        "disk.qcow2", "m1", "web.m1", "web.m1.bascule-state.txt", ".bascule-token-m1",
    ):  # fmt: skip
        (tmp_path / name).touch()
    assert sweep(tmp_path, {"m1", "m3"}) == [PART, "db.v1.m3.bascule-state", "web.m1.bascule-state"]
    assert sweep(tmp_path, {"m1", "m3"}) == []
    assert len(names(tmp_path)) == 7
