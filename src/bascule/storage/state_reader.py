"""Opening a saved state: everything is checked before a byte of it reaches QEMU."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bascule.errors import Refused
from bascule.storage.state_header import HEADER_BYTES, BadStateError, StateHeader, StateIdentity
from bascule.storage.stoppable import Stop, run_stoppable

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class OpenState:
    """A saved state that was found good. `file` is a descriptor at the stream's first byte, to be passed to QEMU."""

    header: StateHeader
    file: int

    def close(self) -> None:
        """Close the descriptor; QEMU keeps the copy that it was passed."""
        os.close(self.file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def open_checked(path: Path, *, vm_uuid: str, move_id: str, owner_uid: int | None = None) -> OpenState:
    """Open the state of this VM and this move, and compare its checksum, in a thread. The caller closes it.

    `owner_uid` is who must own the file: this process, if not given. (Where a file server maps root to somebody else,
    it is whoever owns the files that this process creates there.) Raises `Refused` for a file that is missing, is a
    link, is not private to its owner, belongs to another VM or move, or is damaged.
    """
    owner = os.geteuid() if owner_uid is None else owner_uid
    return await run_stoppable(lambda stop: _open_checked(path, vm_uuid, move_id, owner, stop), undo=OpenState.close)


def _open_checked(path: Path, vm_uuid: str, move_id: str, owner: int, stop: Stop) -> OpenState:
    attempt = f"cannot use the saved state {path}"
    try:
        # Not blocking, for the case that somebody has put a FIFO there.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise Refused(f"{attempt}: {reason}") from error
    try:
        _check_private(os.fstat(file), owner)
        header = StateHeader.decode(os.pread(file, HEADER_BYTES, 0))
        _check_identity(header.identity, vm_uuid, move_id)
        _check_stream(file, header, stop)
        os.lseek(file, HEADER_BYTES, os.SEEK_SET)
    except BaseException as error:
        os.close(file)
        if isinstance(error, BadStateError | OSError):
            raise Refused(f"{attempt}: {error}") from error
        raise
    return OpenState(header, file)


def _check_private(status: os.stat_result, owner: int) -> None:
    """Refuse what somebody else may have written, or what shows the VM's memory to somebody else."""
    if not stat.S_ISREG(status.st_mode):
        raise BadStateError("it is not a regular file")
    if status.st_uid != owner:
        raise BadStateError(f"it belongs to user {status.st_uid}, not {owner}")
    if status.st_nlink != 1:
        raise BadStateError(f"it has {status.st_nlink} names (hard links)")
    if status.st_mode & 0o077:
        raise BadStateError(f"other users may use it (mode {stat.S_IMODE(status.st_mode):04o})")


def _check_identity(identity: StateIdentity, vm_uuid: str, move_id: str) -> None:
    if identity.vm_uuid != vm_uuid:
        raise BadStateError(f"it is the state of VM {identity.vm_name} ({identity.vm_uuid}), not of {vm_uuid}")
    if identity.move_id != move_id:
        raise BadStateError(f"it was saved by move {identity.move_id}, not by {move_id}")


def _check_stream(file: int, header: StateHeader, stop: Stop) -> None:
    stream_bytes = os.fstat(file).st_size - HEADER_BYTES
    if stream_bytes != header.stream_bytes:
        raise BadStateError(f"its stream has {stream_bytes} bytes instead of {header.stream_bytes}")
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK_BYTES))
    offset = HEADER_BYTES
    while got := os.preadv(file, [block], offset):
        stop.check()
        digest.update(block[:got])
        offset += got
    if digest.hexdigest() != header.stream_sha256:
        raise BadStateError("the checksum of its stream is wrong")
