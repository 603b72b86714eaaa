"""One QEMU process: started unprivileged in a session of its own, watched, killed, never lost.

The process belongs to the host, not to the agent: it goes on when the agent ends, and `adopt` finds it again.
Its end is seen through a pidfd by the event loop, for children and for adopted processes alike, and signals go
through that pidfd, so that a process that merely inherited the number is never touched.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from bascule.errors import Failed, Refused, Unknown
from bascule.qemu.command_line import LaunchPaths
from bascule.qemu.process_record import ProcessRecord, boot_id, start_ticks
from bascule.qemu.user import QemuUser

_AT_EVERY_START = "QEMU waiting for connection on"  # its monitor's first client, see `command_line.monitor`
_LOG_TAIL_BYTES = 8192
_DEATH_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: its exit `code`, or the `signal` that ended it; neither when only a parent could know."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.code is not None:
            return f"exited with status {self.code}"
        if self.signal is not None:
            return f"was ended by {signal.Signals(self.signal).name}"
        return "has ended"


class QemuExited(Failed):
    """QEMU is gone; the message carries what it said on stderr."""

    def __init__(self, pid: int, status: ExitStatus, said: str) -> None:
        super().__init__(f"QEMU (pid {pid}) {status}" + (f" and said: {said}" if said else " and said nothing"))
        self.status = status
        self.said = said


class QemuProcess:
    """A running QEMU, or one that has ended."""

    def __init__(self, record: ProcessRecord, pidfd: int) -> None:
        """Use `start` or `adopt`."""
        self.record = record
        self.exit_status: ExitStatus | None = None
        self._pidfd = pidfd
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[ExitStatus] = self._loop.create_future()
        if pidfd >= 0:
            self._loop.add_reader(pidfd, self._on_exit)

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        directory: str,
        user: QemuUser | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Self:
        """Start QEMU in a new `directory` of its own (mode 0700), which it alone can enter besides root.

        `user` None keeps the caller's user. `pass_fds` keep their numbers. Raises `Refused` when the directory
        exists or the program cannot be started; nothing is left behind then.
        """
        path = Path(directory)
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise Refused(
                f"cannot start QEMU in {directory}: {error.strerror}",
                "remove what an earlier QEMU left there"
                if error.errno == errno.EEXIST
                else "create the folder above it",
            ) from error
        try:
            with _open_log(directory, user) as log:
                # Chowned only now: nothing of ours is opened by name in a directory that the QEMU user can change.
                if user is not None:
                    os.chown(path, user.uid, user.gid)
                child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env={"PATH": os.defpath, "LC_ALL": "C"},
                    user=user.uid if user else None,
                    group=user.gid if user else None,
                    extra_groups=user.extra_groups if user else None,
                    umask=0o077,
                    start_new_session=True,
                    pass_fds=pass_fds,
                )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            shutil.rmtree(path, ignore_errors=True)
            raise Refused(f"cannot start QEMU as {argv[0]}: {error}", "install QEMU, or name its binary") from error
        # The exit is read from the pidfd below; told this, Popen neither polls for it nor warns that it still runs.
        child.returncode = 0
        pidfd = os.pidfd_open(child.pid)
        # Not yet reaped, so the pid is still the child's, even if it has died at once.
        record = ProcessRecord(child.pid, start_ticks(child.pid) or 0, boot_id(), directory, tuple(argv))
        return cls(record, pidfd)

    @classmethod
    def adopt(cls, record: ProcessRecord) -> Self:
        """Watch the process of `record` again. Raises `QemuExited` if it is gone, whoever has its pid now."""
        try:
            # Opened before the look at the start time: if that still fits afterwards, the pidfd is the right one's.
            pidfd = os.pidfd_open(record.pid)
        except OSError:
            pidfd = -1
        if pidfd < 0 or not record.is_alive():
            if pidfd >= 0:
                os.close(pidfd)
            raise QemuExited(record.pid, ExitStatus(), read_log(record.directory))
        return cls(record, pidfd)

    @classmethod
    def ended(cls, record: ProcessRecord) -> Self:
        """Stand for a process that is known to have ended, and of which only the directory may be left."""
        process = cls(record, -1)
        process.exit_status = ExitStatus()
        process._exited.set_result(process.exit_status)
        return process

    @property
    def alive(self) -> bool:
        """Whether the process was not yet seen to end."""
        return self.exit_status is None

    async def exited(self) -> ExitStatus:
        """Wait for the end of the process; any number of tasks may wait, and be cancelled."""
        return await asyncio.shield(self._exited)

    def raise_if_exited(self) -> None:
        """Raise `QemuExited` once the process has ended."""
        if self.exit_status is not None:
            raise self.exit_error(self.exit_status)

    def exit_error(self, status: ExitStatus) -> QemuExited:
        """The error that tells `status` together with QEMU's own words."""
        return QemuExited(self.record.pid, status, self.stderr_tail())

    def send_kill(self) -> None:
        """Send SIGKILL, which ends frozen processes too. Does nothing once it has ended."""
        if self.alive:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def kill(self) -> ExitStatus:
        """Send SIGKILL and wait until the kernel has released what the process held.

        Raises `Unknown` if that takes longer than 10 s, which only happens to a process that hangs in the kernel.
        """
        self.send_kill()
        try:
            async with asyncio.timeout(_DEATH_DEADLINE_S):
                return await self.exited()
        except TimeoutError:
            raise Unknown(
                f"QEMU (pid {self.record.pid}) did not die of SIGKILL within {_DEATH_DEADLINE_S:g} s",
                f"it hangs in the kernel, often on storage that does not answer: see /proc/{self.record.pid}/stack",
            ) from None

    def stderr_tail(self) -> str:
        """The last lines that QEMU wrote to stdout and stderr."""
        return read_log(self.record.directory)

    def close(self) -> None:
        """Stop watching; the process runs on."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def discard(self) -> None:
        """Remove the directory of an ended process. Raises `Refused` while it lives."""
        if self.alive and self.record.is_alive():
            raise Refused(f"cannot remove {self.record.directory}: its QEMU (pid {self.record.pid}) still runs")
        self.close()
        shutil.rmtree(self.record.directory, ignore_errors=True)

    def _on_exit(self) -> None:
        """The pidfd turned readable: the process has ended."""
        status = ExitStatus()
        with suppress(ChildProcessError):  # adopted: its exit status goes to init
            # Only this child is reaped, and only through its pidfd.
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            if result is not None:
                ended_itself = result.si_code == os.CLD_EXITED
                status = ExitStatus(code=result.si_status) if ended_itself else ExitStatus(signal=result.si_status)
        self.close()
        self.exit_status = status
        self._exited.set_result(status)


def read_log(directory: str) -> str:
    """The end of the log in QEMU's `directory`, empty when there is none, without what it says at every start.

    QEMU's user can write there, so a planted link or pipe must neither be followed nor block us.
    """
    try:
        descriptor = os.open(LaunchPaths(directory).log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as log:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return ""
        log.seek(max(0, status.st_size - _LOG_TAIL_BYTES))
        lines = log.read(_LOG_TAIL_BYTES).decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if _AT_EVERY_START not in line).strip()


def _open_log(directory: str, user: QemuUser | None) -> BinaryIO:
    log = os.open(LaunchPaths(directory).log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    if user is not None:
        os.fchown(log, user.uid, user.gid)
    return os.fdopen(log, "ab", buffering=0)
