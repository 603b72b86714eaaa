"""The locks of a real QEMU."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from bascule.storage.access import RunAs
from bascule.storage.image import check_image
from bascule.storage.image_lock import explain_lock_complaint, image_use, is_locked

pytestmark = pytest.mark.lab

NOBODY = RunAs(65534, 65534)


def disk(path: Path) -> list[str]:
    return [
        "-blockdev", f"driver=file,node-name=file0,filename={path}",
        "-blockdev", "driver=qcow2,node-name=disk0,file=file0",
        "-device", "virtio-blk-pci,drive=disk0",
    ]  # fmt: skip


def test_qemus_locks_are_seen_and_its_complaint_explained(directory: Path, running: Any, create_image: Any):
    base = create_image(directory / "base.qcow2")
    image = create_image(directory / "disk.qcow2", "-b", str(base), "-F", "qcow2")
    assert not is_locked(image)
    with running(directory, "first", *disk(image)) as first:
        use = image_use(image)
        assert use.written
        assert [holder.pid for holder in use.holders] == [first.process.pid]
        below = image_use(base)
        assert not below.written
        assert below.read_without_sharing
        assert check_image(image, "qcow2") == [], "an image in use can be inspected"

        second = subprocess.run(
            ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", *disk(image)],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert second.returncode != 0
        text = explain_lock_complaint(second.stderr)
        assert text is not None
        assert f"the image {image} is in use" in text
        assert f"written by process {first.process.pid} (qemu-system-x86)" in text
    assert not is_locked(image)


def test_a_qemu_that_waits_for_a_migration_holds_no_lock(directory: Path, running: Any, create_image: Any):
    """So the lock is no proof of ownership, as the module says."""
    image = create_image(directory / "disk.qcow2")
    with running(directory, "waiting", *disk(image), "-incoming", "defer"):
        assert not is_locked(image)


def test_asking_does_not_disturb_a_qemu_that_starts(directory: Path, running: Any, create_image: Any):
    image = create_image(directory / "disk.qcow2")
    stop = threading.Event()
    asked = 0

    def ask() -> None:
        nonlocal asked
        while not stop.is_set():
            is_locked(image)
            asked += 1

    asking = threading.Thread(target=ask, name="asking")
    asking.start()
    try:
        for _ in range(3):
            with running(directory, "starting", *disk(image)) as qemu:
                assert qemu.ask("query-status")["status"] == "prelaunch"
    finally:
        stop.set()
        asking.join()
    assert asked > 10


def test_the_whole_check_runs_beside_an_event_loop(directory: Path, create_image: Any):
    image = create_image(directory / "disk.qcow2")

    async def check() -> object:
        return await asyncio.to_thread(check_image, image, "qcow2", user=NOBODY, read_only=True)

    assert asyncio.run(check()) == []
