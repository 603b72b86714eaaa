"""Who may build or remove a lab: one process at a time, for as long as it lives.

The lock is on the lab's own directory, so it leaves no file behind; the kernel lets go of it when its holder
dies, however it dies. A child that inherits the descriptor holds it as well: what a killed builder had begun
has ended before anybody else gets the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bascule.errors import Refused

_POLL_S = 0.02


@contextlib.contextmanager
def create_and_lock(directory: Path, *, wait_s: float) -> Iterator[int | None]:
    """Make `directory` and lock it; None if it exists already, and then it is not locked.

    Raises `Refused` if somebody else holds the new directory's lock for longer than `wait_s`.
    """
    while True:
        try:
            _make(directory)
        except FileNotFoundError:
            continue
        except FileExistsError:
            yield None
            return
        with _lock(directory, wait_s=wait_s) as descriptor:
            if descriptor is not None:
                yield descriptor
                return
        # A removal came in between and took the directory away: start again.


@contextlib.contextmanager
def lock_existing(directory: Path, *, wait_s: float) -> Iterator[int]:
    """Lock `directory`, made if need be. Raises `Refused` if its lock is held for longer than `wait_s`."""
    while True:
        with contextlib.suppress(FileExistsError, FileNotFoundError):
            _make(directory)
        with _lock(directory, wait_s=wait_s) as descriptor:
            if descriptor is not None:
                yield descriptor
                return


def is_locked(directory: Path) -> bool:
    """Whether somebody builds or removes what is in `directory` right now."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        return not _try(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lock(directory: Path, *, wait_s: float) -> Iterator[int | None]:
    """Yield a descriptor that holds the lock; None if the directory went away meanwhile."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield None
        return
    try:
        give_up_s = time.monotonic() + wait_s
        while not _try(descriptor):
            if time.monotonic() > give_up_s:
                raise Refused(
                    f"{directory} is in use: another process builds or removes this lab",
                    "wait until it is done, or end it, and try again",
                )
            time.sleep(_POLL_S)
        yield descriptor if _is_still(descriptor, directory) else None
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(descriptor: int, directory: Path) -> bool:
    try:
        named = directory.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)


def _make(directory: Path) -> None:
    """Make `directory`, which every user may enter whatever the umask, in parents made likewise."""
    missing = [parent for parent in directory.parents if not parent.exists()]
    for parent in reversed(missing):
        with contextlib.suppress(FileExistsError):
            parent.mkdir()
            parent.chmod(0o755)
    # A removal of the last lab takes the parent away as well, perhaps right now: then the caller comes again.
    directory.mkdir()
    directory.chmod(0o755)
