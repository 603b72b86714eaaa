"""Who has an image open, by the locks that QEMU takes on it, and QEMU's complaints about them in plain words.

QEMU locks single bytes of an image, by OFD locks (block/file-posix.c, raw_apply_lock_bytes and raw_check_lock_bytes):
byte 100 + n, shared, while it uses permission n, and byte 200 + n, shared, while it does not let others use it. The
permissions are numbered in include/block/block-common.h; 1 is writing. F_OFD_GETLK only asks: it takes no lock, not
even for a moment.

A paused QEMU that waits for a migration, and a source that has sent everything, hold no locks: the absence of a lock is
no proof that nobody owns the image. Locks reach other hosts only where the file system carries them (NFS, CephFS; not a
block device, nor NFS with local_lock).
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bascule.errors import Failed

_PERMISSION_BASE = 100
_NOT_SHARED_BASE = 200
_WRITE = 1
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid

_COMPLAINT = re.compile(r'Failed to get (?P<shared>shared )?"(?P<permission>[a-z -]+)" lock')
_IMAGE = re.compile(r"Is another process using the image \[(?P<path>.*)\]\?")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process of this host that holds locks on the image."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})"


@dataclass(frozen=True, slots=True)
class ImageUse:
    """How an image is used now. No holder is known for one in use on another host."""

    written: bool
    read_without_sharing: bool  # as a backing file, or by qemu-img: QEMU could open it for reading, not for writing
    holders: tuple[Holder, ...]

    def hinders(self, *, read_only: bool) -> bool:
        """Whether QEMU could not open the image now, for writing or only for reading."""
        return self.written or (self.read_without_sharing and not read_only)

    def __str__(self) -> str:
        how = "written by" if self.written else "read, and not shared, by"
        return f"{how} {' and '.join(map(str, self.holders)) or 'a process that this host does not show'}"


def image_use(path: Path) -> ImageUse:
    """Ask for QEMU's locks on an image. Raises `Failed` when that cannot be known."""
    try:
        image = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Failed(f"cannot ask for locks on {path}: {error.strerror}") from error
    try:
        written = _is_locked(image, _PERMISSION_BASE + _WRITE)
        not_shared = _is_locked(image, _NOT_SHARED_BASE + _WRITE)
        holders = _holders(os.fstat(image)) if written or not_shared else ()
    except OSError as error:
        raise Failed(f"cannot ask for locks on {path}: {error.strerror}") from error
    finally:
        os.close(image)
    return ImageUse(written=written, read_without_sharing=not_shared and not written, holders=holders)


def is_locked(path: Path) -> bool:
    """Whether somebody has the image open for writing, without disturbing anybody. Raises `Failed`."""
    return image_use(path).written


def explain_lock_complaint(qemu_stderr: str) -> str | None:
    """QEMU's 'Failed to get "write" lock' as a sentence for the user; None when `qemu_stderr` does not hold it."""
    complaint = _COMPLAINT.search(qemu_stderr)
    if complaint is None:
        return None
    image = _IMAGE.search(qemu_stderr, complaint.end())
    path = Path(image["path"]) if image else None
    subject = f"the image {path}" if path else "a disk image"
    holders = ""
    if path is not None and path.is_absolute():
        with suppress(Failed):
            use = image_use(path)
            holders = f" It is {use}." if use.written or use.read_without_sharing else " It no longer is."
    # "shared": QEMU wanted nobody else to have the permission; else, somebody else does not let us have it.
    if complaint["shared"]:
        return f"{subject} is in use by another process, which has taken the {complaint['permission']} lock.{holders}"
    return f"{subject} is in use by another process, which does not share the {complaint['permission']} lock.{holders}"


def _is_locked(image: int, byte: int) -> bool:
    # As if we wanted it for ourselves: any lock of somebody else's is then in the way.
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    kind: int = _FLOCK.unpack(fcntl.fcntl(image, fcntl.F_OFD_GETLK, asked))[0]
    return kind != fcntl.F_UNLCK


def _holders(image: os.stat_result) -> tuple[Holder, ...]:
    """The processes with a lock on this file: their fdinfo shows each lock with its device and inode."""
    file = f"{os.major(image.st_dev):02x}:{os.minor(image.st_dev):02x}:{image.st_ino}"
    wanted = re.compile(rf"^lock:.* OFDLCK .* {re.escape(file)} ", re.MULTILINE)
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with suppress(OSError):  # it has ended, or is not ours to look into
            if any(wanted.search(text) for text in _fdinfo(process)):
                found.append(Holder(int(process.name), (process / "comm").read_text().strip()))
    return tuple(found)


def _fdinfo(process: Path) -> list[str]:
    texts = []
    for entry in (process / "fdinfo").iterdir():
        with suppress(OSError):
            texts.append(entry.read_text())
    return texts
