"""Writing a saved state: from the pipe that QEMU writes, to a file that appears whole or not at all.

    StateWriter.create -> receive (QEMU's stream, to its end) -> commit
                   any failure, cancellation, or leaving the `async with` without commit -> nothing is left

Both sides must be content. The end of the stream does not mean that QEMU is: it ends as well when QEMU fails; `commit`
is therefore a step of its own, for after QEMU has reported `completed`. Nor does `completed` mean that the stream is on
disk: the last of it may still be in the pipe. The file has another name until `commit`, and no header.

A stream has no blocks of zeros worth a hole in the file: QEMU sends a page of zeros as a few bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path
from types import TracebackType
from typing import Self

from bascule.errors import Failed, Refused
from bascule.storage.shared_directory import free_bytes
from bascule.storage.state_header import HEADER_BYTES, StateHeader, StateIdentity
from bascule.storage.stoppable import Stop, run_stoppable

BLOCK_BYTES = 1 << 20  # also the pipe's size: the largest that an unprivileged QEMU may be given
MIB = 1 << 20
_VM_NAME = re.compile(r"[^./][^/]*")
_MOVE_ID = re.compile(r"[A-Za-z0-9_-]+")
_FILE_NAME = re.compile(rf"\.?{_VM_NAME.pattern}\.(?P<move_id>{_MOVE_ID.pattern})\.bascule-state(?:\.part)?")
_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class SavedState:
    """A saved state on disk, complete and durable."""

    path: Path
    header: StateHeader


def state_path(directory: Path, identity: StateIdentity) -> Path:
    """Where the state of this VM and this move is saved. Raises `Refused` for names that make no file name."""
    if not _VM_NAME.fullmatch(identity.vm_name) or not _MOVE_ID.fullmatch(identity.move_id):
        raise Refused(
            f"cannot save the state of VM {identity.vm_name!r} by move {identity.move_id!r}: no file can be named so"
        )
    return directory / f"{identity.vm_name}.{identity.move_id}.bascule-state"


class StateWriter:
    """Writes one saved state. Use it as `async with await StateWriter.create(...)`."""

    def __init__(self, path: Path, identity: StateIdentity, expected_bytes: int, *, directory: int, file: int) -> None:
        self.path = path
        self.received_bytes = 0  # may be read at any time, for progress
        self._identity = identity
        self._expected_bytes = expected_bytes
        self._directory = directory
        self._file = file
        self._digest = hashlib.sha256()
        self._written = False
        self._committed = False

    @classmethod
    async def create(cls, directory: Path, identity: StateIdentity, *, expected_bytes: int) -> Self:
        """Begin a saved state in `directory`. `expected_bytes` (the VM's memory) only goes into a full disk's message.

        Raises `Refused` when the directory cannot be written to, or holds a part of the same move already.
        """
        path = state_path(directory, identity)
        return await run_stoppable(lambda _: cls._create(path, identity, expected_bytes), undo=cls._end)

    @classmethod
    def _create(cls, path: Path, identity: StateIdentity, expected_bytes: int) -> Self:
        try:
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                file = os.open(_part(path), flags, 0o600, dir_fd=directory)
            except OSError:
                os.close(directory)
                raise
        except OSError as error:
            attempt = f"cannot save the state of VM {identity.vm_name} in {path.parent}"
            if isinstance(error, FileExistsError):
                raise Refused(f"{attempt}: {_part(path)} exists", "another agent may be writing it") from error
            raise Refused(f"{attempt}: {error.strerror}") from error
        writer = cls(path, identity, expected_bytes, directory=directory, file=file)
        try:
            os.pwrite(file, bytes(HEADER_BYTES), 0)  # the header's room, and its absence of a magic
        except OSError as error:
            failure = writer._failure(error)
            writer._end()
            raise Refused(failure.message, failure.remedy) from error
        return writer

    async def receive(self, pipe: int) -> int:
        """Copy the pipe, to its end, into the file; returns the number of bytes. The pipe is closed in every case.

        Raises `Failed` when the file cannot be written; QEMU then finds its pipe broken.
        """
        await run_stoppable(lambda stop: self._receive(pipe, stop))
        return self.received_bytes

    async def commit(self) -> SavedState:
        """Make the file durable and give it its name. Call it once QEMU has reported `completed`.

        Raises `Failed` when that cannot be done; nothing is left then.
        """
        if not self._written:
            raise RuntimeError("commit before the whole stream was received")
        header = StateHeader(self._identity, self.received_bytes, self._digest.hexdigest())
        await run_stoppable(lambda _: self._commit(header), undo=lambda _: self._withdraw())
        return SavedState(self.path, header)

    async def discard(self) -> None:
        """Remove the file unless it was committed, and end the writer. It may be called again."""
        await run_stoppable(lambda _: self._end())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.discard()

    def _receive(self, pipe: int, stop: Stop) -> None:
        try:
            with suppress(OSError):  # the system's limit for pipes may be lower
                fcntl(pipe, F_SETPIPE_SZ, BLOCK_BYTES)
            os.lseek(self._file, HEADER_BYTES, os.SEEK_SET)
            with ThreadPoolExecutor(1, "state-digest") as hasher:
                self._copy(pipe, stop, hasher)
            self._written = True
        except OSError as error:
            raise self._failure(error) from error
        finally:
            os.close(pipe)

    def _copy(self, pipe: int, stop: Stop, hasher: ThreadPoolExecutor) -> None:
        # Two buffers: one is hashed (in its thread, without the interpreter's lock) while the other is filled.
        filling, hashed = memoryview(bytearray(BLOCK_BYTES)), memoryview(bytearray(BLOCK_BYTES))
        hashing: Future[None] | None = None
        while got := _fill(pipe, filling, stop):
            if hashing is not None:
                hashing.result()
            hashing = hasher.submit(self._digest.update, filling[:got])
            _write_all(self._file, filling[:got])
            self.received_bytes += got
            filling, hashed = hashed, filling

    def _commit(self, header: StateHeader) -> None:
        try:
            os.pwrite(self._file, header.encode(), 0)
            os.fsync(self._file)
            os.rename(_part(self.path), self.path.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            self._committed = True
            os.fsync(self._directory)
        except OSError as error:
            self._withdraw()
            raise self._failure(error) from error

    def _withdraw(self) -> None:
        if self._committed:
            with suppress(FileNotFoundError):
                os.unlink(self.path.name, dir_fd=self._directory)
            self._committed = False

    def _end(self) -> None:
        if self._file < 0:
            return
        try:
            if not self._committed:
                os.unlink(_part(self.path), dir_fd=self._directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            part = self.path.with_name(_part(self.path))
            raise Failed(f"cannot remove {part}: {error.strerror}", f"remove it: rm {part}") from error
        finally:
            for descriptor in (self._file, self._directory):
                with suppress(OSError):  # what was committed is durable already, the rest is of no use
                    os.close(descriptor)
            self._file = self._directory = -1

    def _failure(self, error: OSError) -> Failed:
        attempt = f"cannot save the state of VM {self._identity.vm_name} to {self.path}"
        if error.errno not in _OUT_OF_SPACE:
            return Failed(f"{attempt}: {error.strerror}")
        free = "an unknown amount"
        with suppress(OSError):
            free = f"{free_bytes(self.path.parent) // MIB} MiB"
        return Failed(
            f"{attempt}: {error.strerror} after {self.received_bytes // MIB} MiB of up to "
            f"{self._expected_bytes // MIB} MiB ({free} free)",
            f"make room in {self.path.parent}, or move the VM live, which needs none",
        )


def remove_state(path: Path) -> None:
    """Remove a saved state; that there is none is fine. Raises `Failed`."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Failed(f"cannot remove the saved state {path}: {error.strerror}", f"remove it: rm {path}") from error


def sweep(directory: Path, ended_move_ids: Collection[str]) -> list[str]:
    """Remove what moves that have ended left in `directory`, complete or not; returns the names of the files removed.

    Files of other moves are left alone: other hosts use the directory too, and those may be theirs. Raises `Failed`.
    """
    removed = []
    try:
        paths = sorted(directory.iterdir())
    except OSError as error:
        raise Failed(f"cannot look for left-over states in {directory}: {error.strerror}") from error
    for path in paths:
        match = _FILE_NAME.fullmatch(path.name)
        if match and match["move_id"] in ended_move_ids:
            remove_state(path)
            removed.append(path.name)
    return removed


def _part(path: Path) -> str:
    return f".{path.name}.part"


def _fill(pipe: int, buffer: memoryview, stop: Stop) -> int:
    """Read until the buffer is full or the pipe at its end; returns the number of bytes."""
    filled = 0
    while filled < len(buffer):
        stop.wait_readable(pipe)
        got = os.readv(pipe, [buffer[filled:]])
        if got == 0:
            break
        filled += got
    return filled


def _write_all(file: int, block: memoryview) -> None:
    while block:
        block = block[os.write(file, block) :]
