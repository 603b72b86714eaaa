"""Does KVM run a 64-bit Linux here? Not whether its device opens: whether a kernel was seen running under it.

On nested or otherwise limited hosts /dev/kvm opens, QEMU starts, and an ordinary kernel then hangs for ever or
QEMU aborts on the host's CPU model. The proof boots a real kernel and waits for its banner, which it prints from
64-bit code after it has set up paging, interrupts and per-CPU data.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bascule.errors import Refused
from bascule.qemu.command_line import SANDBOX, LaunchPaths
from bascule.qemu.process import QemuProcess
from bascule.qemu.throwaway import PROOF, PROOF_QEMU
from bascule.qemu.user import QemuUser

FALLBACK_CPU = "qemu64"
_BANNER = b"Linux version"
_COMMAND_LINE = "console=ttyS0 earlyprintk=serial,ttyS0,115200 panic=-1"


@dataclass(frozen=True, slots=True)
class BootResult:
    """`booted`, or `problem` in one sentence; `aborted` if QEMU itself ended before the kernel spoke."""

    booted: bool
    problem: str = ""
    aborted: bool = False


async def boot_linux(
    binary: str,
    kernel: Path,
    *,
    accelerator: str,
    cpu: str,
    deadline_s: float,
    user: QemuUser | None = None,
    parent: Path | None = None,
) -> BootResult:
    """Boot `kernel` until it prints its banner on the serial line, at most `deadline_s` long; leaves nothing.

    `parent` is the folder for the short-lived directories; the QEMU user must be able to enter it. Raises
    `Refused` if QEMU cannot be started at all.
    """
    base: Path | None = None
    process: QemuProcess | None = None
    near, far = socket.socketpair()
    said = bytearray()
    try:
        base, copy = _stage(kernel, parent)
        directory = str(base / PROOF_QEMU)
        argv = (
            *(binary, "-M", "pc", "-accel", accelerator, "-cpu", cpu, "-m", "256"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-sandbox", SANDBOX),
            *("-pidfile", LaunchPaths(directory).pidfile),
            *("-chardev", f"socket,id=serial,fd={far.fileno()}", "-serial", "chardev:serial"),
            *("-kernel", str(copy), "-append", _COMMAND_LINE),
        )
        process = QemuProcess.start(argv, directory=directory, user=user, pass_fds=(far.fileno(),))
        far.close()
        async with asyncio.timeout(deadline_s):
            if await _hear(near, said, _BANNER):
                return BootResult(booted=True)
            status = await process.exited()
        words = process.stderr_tail().splitlines()
        return BootResult(False, f"QEMU {status}" + (f": {words[-1]}" if words else ""), aborted=True)
    except TimeoutError:
        lines = said.decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        heard = f"its last words were: {last}" if last else "it said nothing"
        return BootResult(False, f"the kernel {kernel} did not come up within {deadline_s:g} s; {heard}")
    except OSError as error:
        raise Refused(f"cannot prove {accelerator} with the kernel {kernel}: {error}") from error
    finally:
        near.close()
        far.close()
        if process is not None:
            await process.kill()
        if base is not None:
            shutil.rmtree(base, ignore_errors=True)


def _stage(kernel: Path, parent: Path | None) -> tuple[Path, Path]:
    """A folder that the QEMU user can enter, and in it the kernel, which /boot may keep for root (Ubuntu does)."""
    base = Path(tempfile.mkdtemp(prefix=PROOF, dir=parent))
    try:
        base.chmod(0o711)
        copy = base / "kernel"
        shutil.copyfile(kernel, copy)
        copy.chmod(0o644)
    except BaseException:
        shutil.rmtree(base, ignore_errors=True)
        raise
    return base, copy


async def _hear(stream: socket.socket, said: bytearray, wanted: bytes) -> bool:
    """Collect in `said` what comes on `stream`, up to `wanted` (true) or to its end (false)."""
    stream.setblocking(False)
    while piece := await asyncio.get_running_loop().sock_recv(stream, 4096):
        said += piece
        if wanted in said:
            return True
    return False
