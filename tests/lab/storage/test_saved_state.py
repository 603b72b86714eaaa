"""States saved from a real QEMU and loaded into one, and disks that are full."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from bascule.errors import Failed, Refused
from bascule.storage.shared_directory import free_bytes, write_token
from bascule.storage.state_file import StateWriter, remove_state
from bascule.storage.state_header import StateIdentity
from bascule.storage.state_reader import open_checked

pytestmark = pytest.mark.lab

IDENTITY = StateIdentity("3f1c", "web", 7, "m1", "pc-q35-7.2", "tcg")
MIB = 1 << 20


async def test_a_state_goes_from_one_qemu_to_another(directory: Path, running: Any):
    with running(directory, "source") as source:
        async with await StateWriter.create(directory, IDENTITY, expected_bytes=64 * MIB) as writer:
            reading, writing = os.pipe()
            source.ask("getfd", {"fdname": "state"}, descriptor=writing)
            os.close(writing)
            source.ask("migrate", {"uri": "fd:state"})
            received = await writer.receive(reading)
            assert source.wait_for_migration() == "completed"
            saved = await writer.commit()
        assert received > 10_000
    with await open_checked(saved.path, vm_uuid="3f1c", move_id="m1") as state:
        assert state.header.stream_bytes == received
        with running(directory, "destination", "-incoming", "defer") as destination:
            destination.ask("getfd", {"fdname": "state"}, descriptor=state.file)
            destination.ask("migrate-incoming", {"uri": "fd:state"})
            assert destination.wait_for_migration() == "completed"
    remove_state(saved.path)
    assert os.listdir(directory) == []  # noqa: PTH208  # a test may block its loop


async def test_a_full_disk_ends_the_save_and_qemus_migration(directory: Path, mounted: Any, running: Any):
    # A page of zeros takes 9 bytes: so many are needed that the pipe cannot hold the whole stream.
    with mounted(directory / "small", "size=64k") as small, running(directory, "source", "-m", "2048") as source:
        writer = await StateWriter.create(small, IDENTITY, expected_bytes=64 * MIB)
        reading, writing = os.pipe()
        source.ask("getfd", {"fdname": "state"}, descriptor=writing)
        os.close(writing)
        source.ask("migrate", {"uri": "fd:state"})
        async with writer:
            with pytest.raises(Failed, match=r"No space left on device after \d+ MiB of up to 64 MiB"):
                await writer.receive(reading)
        assert list(small.iterdir()) == []
        assert source.wait_for_migration() == "failed"
        assert source.ask("query-status")["status"] in ("prelaunch", "paused", "postmigrate")


async def test_a_full_disk_says_how_much_there_was(directory: Path, mounted: Any):
    reading, writing = os.pipe()
    broken = threading.Event()

    def write() -> None:
        with os.fdopen(writing, "wb", buffering=0) as pipe:
            try:
                for _ in range(64):
                    pipe.write(os.urandom(MIB))
            except BrokenPipeError:
                broken.set()

    thread = threading.Thread(target=write, name="like-qemu")
    with mounted(directory / "small", "size=8m") as small:
        thread.start()
        async with await StateWriter.create(small, IDENTITY, expected_bytes=64 * MIB) as writer:
            with pytest.raises(Failed) as failure:
                await writer.receive(reading)
            assert writer.received_bytes == 7 * MIB
        thread.join()
        assert broken.is_set()
        assert f"after {writer.received_bytes // MIB} MiB of up to 64 MiB (0 MiB free)" in failure.value.message
        assert f"make room in {small}" in failure.value.remedy
        assert list(small.iterdir()) == []
        assert free_bytes(small) == 8 * MIB


async def test_a_disk_that_is_full_before_is_refused(directory: Path, mounted: Any):
    with mounted(directory / "small", "size=4k") as small:
        (small / "filler").write_bytes(bytes(4096))
        with pytest.raises(Refused, match="No space left on device after 0 MiB of up to 64 MiB"):
            await StateWriter.create(small, IDENTITY, expected_bytes=64 * MIB)
        assert [path.name for path in small.iterdir()] == ["filler"]


def test_a_full_disk_takes_no_token(directory: Path, mounted: Any):
    with mounted(directory / "small", "size=4k") as small:
        (small / "filler").write_bytes(bytes(4096))
        with pytest.raises(Refused, match="No space left"):
            write_token(small)
        assert [path.name for path in small.iterdir()] == ["filler"]
