"""With locks taken here as QEMU takes them; tests/lab/test_storage.py has QEMU itself."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bascule.errors import Failed
from bascule.storage.image_lock import Holder, ImageUse, explain_lock_complaint, image_use, is_locked


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1024))
    return path


@contextmanager
def locked(path: Path, *ranges: tuple[int, int]) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        for first, last in ranges:
            lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, first, last - first + 1, 0)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, lock)
        yield
    finally:
        os.close(descriptor)


def test_an_image_that_nobody_uses(image: Path):
    use = image_use(image)
    assert use == ImageUse(written=False, read_without_sharing=False, holders=())
    assert not is_locked(image)
    assert not use.hinders(read_only=False)


def test_a_writer_hinders_everybody_and_is_named(image: Path):
    with locked(image, (100, 101), (103, 103), (201, 201), (203, 203)):
        use = image_use(image)
        assert use.written
        assert use.hinders(read_only=False)
        assert use.hinders(read_only=True)
        assert [holder.pid for holder in use.holders] == [os.getpid()]
        assert str(use).startswith(f"written by process {os.getpid()} (")
    assert not is_locked(image)


def test_a_reader_hinders_only_writers(image: Path):
    with locked(image, (100, 100), (201, 201), (203, 203)):
        use = image_use(image)
        assert not use.written
        assert use.read_without_sharing
        assert use.hinders(read_only=False)
        assert not use.hinders(read_only=True)


def test_other_locks_are_not_our_business(image: Path):
    with locked(image, (0, 99), (100, 100), (102, 200), (202, 300)):
        assert image_use(image).holders == ()
        assert not is_locked(image)


def test_the_answer_follows_the_lock_at_once(image: Path):
    for _ in range(20):
        assert not is_locked(image)
        with locked(image, (101, 101)):
            assert is_locked(image)


def test_an_image_that_cannot_be_opened_is_no_unlocked_image(tmp_path: Path):
    with pytest.raises(Failed, match="No such file"):
        is_locked(tmp_path / "none")


def test_an_unknown_holder_is_not_invented():
    assert str(ImageUse(written=True, read_without_sharing=False, holders=())) == (
        "written by a process that this host does not show"
    )
    assert str(ImageUse(written=False, read_without_sharing=True, holders=(Holder(7, "qemu-img"),))) == (
        "read, and not shared, by process 7 (qemu-img)"
    )


def test_qemus_complaint_is_explained(image: Path):
    complaint = (
        '2026-01-01T00:00:00.000000Z qemu-system-x86_64: -blockdev driver=qcow2: Failed to get "write" lock\n'
        f"Is another process using the image [{image}]?\n"
    )
    with locked(image, (101, 101), (201, 201)):
        text = explain_lock_complaint(complaint)
        assert text is not None
        assert text.startswith(f"the image {image} is in use by another process, which does not share the write lock.")
        assert f"It is written by process {os.getpid()} (" in text
    gone = explain_lock_complaint(complaint)
    assert gone is not None
    assert gone.endswith("It no longer is.")


def test_a_complaint_without_a_path_is_explained_too():
    assert explain_lock_complaint('Failed to get shared "consistent read" lock') == (
        "a disk image is in use by another process, which has taken the consistent read lock."
    )


def test_other_complaints_are_left_alone():
    assert explain_lock_complaint("qemu-system-x86_64: could not open disk image: Permission denied") is None
