"""Taps in other processes: which process has a tap open, and getting a descriptor of it.

The kernel tells the interface behind a descriptor of /dev/net/tun in /proc/PID/fdinfo (`iff:`). `pidfd_getfd(2)` then
copies the descriptor, as if it had been passed; that needs root (the right to ptrace the process).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bascule.errors import Failed

PIDFD_GETFD = (
    438  # the number of the system call, the same on x86-64, arm64, ppc64 and s390x; glibc before 2.36 has no name
)
TUNGETDEVNETNS = 0x54E3  # linux/if_tun.h

_libc = ctypes.CDLL(None, use_errno=True)


def copy_tap_descriptors(pid: int, name: str) -> list[int]:
    """A new descriptor for each queue of the tap `name` that process `pid` has open, in order. The caller closes them.

    Raises `Failed` when the process is gone, has no such tap open, or may not be asked.
    """
    attempt = f"cannot take over tap {name} of process {pid}"
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise Failed(f"{attempt}: {error.strerror}") from error
    try:
        # The pidfd is held first, so that the descriptors read now belong to the process that it names.
        copies: list[int] = []
        try:
            copies.extend(copy_descriptor(pidfd, number) for number in sorted(_tap_descriptors(pid, name)))
        except OSError as error:
            for copy in copies:
                os.close(copy)
            raise Failed(f"{attempt}: {error.strerror}", "run as root") from error
        if not copies:
            raise Failed(f"{attempt}: the process has no such tap open")
        return copies
    finally:
        os.close(pidfd)


def copy_descriptor(pidfd: int, number: int) -> int:
    """Copy descriptor `number` of the process behind `pidfd`; the caller closes the copy. Raises OSError."""
    copied: int = _libc.syscall(PIDFD_GETFD, pidfd, number, 0)  # close-on-exec is always set
    if copied < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return copied


def tap_holders(name: str) -> list[tuple[int, str]]:
    """The processes (pid and name) that have this network namespace's tap `name` open, as far as we may look."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or not any(_tap_descriptors(int(entry.name), name)):
            continue
        with suppress(OSError, Failed):
            if _is_of_our_namespace(copy_tap_descriptors(int(entry.name), name)):
                found.append((int(entry.name), (entry / "comm").read_text().strip()))
    return found


def _is_of_our_namespace(queues: list[int]) -> bool:
    """Whether the tap behind descriptors is ours and not of the same name elsewhere. Closes the descriptors."""
    try:
        namespace = fcntl.ioctl(queues[0], TUNGETDEVNETNS)
    finally:
        for queue in queues:
            os.close(queue)
    try:
        return os.path.samestat(os.fstat(namespace), Path("/proc/thread-self/ns/net").stat())
    finally:
        os.close(namespace)


def _tap_descriptors(pid: int, name: str) -> Iterator[int]:
    wanted = f"iff:\t{name}"
    with suppress(OSError):  # the process ended, or is not ours to look into
        for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
            with suppress(OSError):
                if wanted in entry.read_text().splitlines():
                    yield int(entry.name)
