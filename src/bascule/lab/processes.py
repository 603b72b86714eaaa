"""The processes of a lab: found by what they are, never by what was recorded alone, and ended for good.

A process belongs to a lab if its network namespace is one of the lab's, if its environment carries the lab's
mark, or if it is a recorded one. The mark closes the gap between the start of a process and its entry into the
namespace, in which the lab's builder may be killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bascule.errors import Failed
from bascule.qemu.process_record import start_ticks

MARK = "BASCULE_LAB_MEMBER"  # in the environment of everything that a lab starts; its value is the lab's name
_PROC = Path("/proc")
_COMMAND_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its pid and start time name it for as long as the machine runs."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the live process `pid`, or None."""
        ticks = start_ticks(pid)
        return None if ticks is None else cls(pid, ticks)

    def is_alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return start_ticks(self.pid) == self.start_ticks

    def command(self) -> str:
        """Return its command line, shortened, for people."""
        try:
            words = (_PROC / str(self.pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return " ".join(words).strip()[:_COMMAND_LENGTH]


def find(lab: str, namespaces: Collection[tuple[int, int]], recorded: Collection[Process] = ()) -> list[Process]:
    """Return the live processes of `lab`, whose namespaces are given as (device, inode)."""
    mark = f"{MARK}={lab}".encode()
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        process = Process.of(int(entry.name))
        if process and (process in recorded or _is_inside(entry, namespaces) or _is_marked(entry, mark)):
            found.append(process)
    return found


def end(find_now: Callable[[], Sequence[Process]], *, patience_s: float, deadline_s: float) -> list[Process]:
    """End everything that `find_now` finds, again and again until it finds nothing; return what was ended.

    First SIGTERM, and after `patience_s` SIGKILL. Raises `Failed` if something still lives `deadline_s` after
    that: a process in the kernel's uninterruptible sleep, for instance.
    """
    ended: dict[Process, None] = {}
    start_s = time.monotonic()
    kill_at_s, give_up_s = start_s + patience_s, start_s + patience_s + deadline_s
    while found := find_now():
        ended.update(dict.fromkeys(found))
        now_s = time.monotonic()
        if now_s > give_up_s:
            names = ", ".join(f"{process.pid} ({process.command()})" for process in found)
            raise Failed(f"these processes do not end, not even by SIGKILL: {names}", "see why: cat /proc/PID/stack")
        polite = now_s < kill_at_s
        signals = (signal.SIGTERM, signal.SIGCONT) if polite else (signal.SIGKILL,)
        send_and_wait(found, signals, timeout_s=(kill_at_s if polite else give_up_s) - now_s)
    return list(ended)


def send_and_wait(processes: Sequence[Process], signals: Sequence[signal.Signals], *, timeout_s: float) -> bool:
    """Send `signals` to each, and wait until all have exited; False when `timeout_s` ran out first."""
    give_up_s = time.monotonic() + timeout_s
    with contextlib.ExitStack() as stack:
        waiting = select.poll()
        count = 0
        for process in processes:
            descriptor = stack.enter_context(_pidfd(process))
            if descriptor is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                for number in signals:
                    signal.pidfd_send_signal(descriptor, number)
            waiting.register(descriptor, select.POLLIN)
            count += 1
        while count and (left_s := give_up_s - time.monotonic()) > 0:
            for descriptor, _ in waiting.poll(left_s * 1000):
                waiting.unregister(descriptor)
                count -= 1
    return count == 0


@contextlib.contextmanager
def _pidfd(process: Process) -> Iterator[int | None]:
    """Open a descriptor that can only ever mean `process`; None if it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Looked at once more, now that the pid can no longer be given to another process unnoticed.
        yield descriptor if process.is_alive() else None
    finally:
        os.close(descriptor)


def _is_inside(entry: Path, namespaces: Collection[tuple[int, int]]) -> bool:
    try:
        status = (entry / "ns/net").stat()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return (status.st_dev, status.st_ino) in namespaces


def _is_marked(entry: Path, mark: bytes) -> bool:
    try:
        return mark in (entry / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
