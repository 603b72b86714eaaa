"""Which accelerator VMs of this host get, and why."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bascule.errors import Refused
from bascule.qemu.capabilities import HostCapabilities
from bascule.qemu.capability_probe import CapabilityProbe, idle_machine, write_json
from bascule.qemu.kvm_proof import FALLBACK_CPU, BootResult, boot_linux
from bascule.qemu.process import QemuExited
from bascule.qemu.user import KVM_DEVICE, QemuUser

BOOT_DIRECTORY = Path("/boot")
PROOF_DEADLINE_S = 10.0
_LOCK_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class AcceleratorChoice:
    """`name` is what VMs run with, `reason` one sentence for people.

    `host_cpu` is false where KVM works but QEMU aborts on the model `host`: VMs must name a model then.
    """

    name: Literal["kvm", "tcg"]
    reason: str
    host_cpu: bool = True


@dataclass(frozen=True, slots=True)
class ProofSettings:
    """What a proof of KVM needs. `kernel` None: the newest readable one of /boot.

    `state_file` remembers the outcome, good or bad, until kernel, CPU, QEMU or boot kernel change; agents that share
    it also share one proof. `parent` is the folder for short-lived directories.
    """

    binary: str
    state_file: Path
    user: QemuUser | None = None
    kernel: Path | None = None
    parent: Path | None = None
    deadline_s: float = PROOF_DEADLINE_S


async def resolve(
    requested: Literal["auto", "kvm", "tcg"], settings: ProofSettings, probe: CapabilityProbe
) -> AcceleratorChoice:
    """Choose for `requested`: `tcg` and `kvm` as asked, `auto` KVM if it is proven, else TCG with the reason.

    Raises `Refused` if `kvm` is asked for and QEMU cannot open it.
    """
    if requested == "tcg":
        return AcceleratorChoice("tcg", "TCG was asked for")
    problem = await _problem_with_kvm(settings)
    if problem:
        if requested == "kvm":
            raise Refused(f"cannot use KVM: {problem}", "give QEMU's user access to /dev/kvm, or choose auto or tcg")
        return AcceleratorChoice("tcg", f"KVM is not usable: {problem}")
    if requested == "kvm":
        return AcceleratorChoice("kvm", "KVM was asked for")
    kernel = settings.kernel or newest_kernel()
    if kernel is None:
        return AcceleratorChoice(
            "tcg",
            f"KVM could not be proven: no readable Linux kernel in {BOOT_DIRECTORY}; name one as proof_kernel",
        )
    if not os.access(kernel, os.R_OK):
        return AcceleratorChoice("tcg", f"KVM could not be proven: the kernel {kernel} cannot be read")
    key = _key(await probe.capabilities("kvm"), kernel)
    async with _locked(settings.state_file):
        known = _remembered(settings.state_file)
        if key not in known:
            known[key] = asdict(await _prove(settings, kernel))
            write_json(settings.state_file, known)
        return AcceleratorChoice(**known[key])


def newest_kernel(directory: Path = BOOT_DIRECTORY) -> Path | None:
    """The newest `vmlinuz-*` in `directory` that can be read."""
    kernels = [path for path in directory.glob("vmlinuz-*") if os.access(path, os.R_OK)]
    return max(kernels, key=lambda path: path.stat().st_mtime, default=None)


async def _problem_with_kvm(settings: ProofSettings) -> str:
    """Why QEMU cannot open KVM, empty if it can. It is tried as the user that VMs run as, each time anew."""
    if not KVM_DEVICE.exists():
        return f"this host has no {KVM_DEVICE}"
    try:
        async with idle_machine(settings.binary, "kvm", settings.user, settings.parent):
            return ""
    except QemuExited as error:
        return error.said.replace("\n", "; ") or str(error.status)


async def _prove(settings: ProofSettings, kernel: Path) -> AcceleratorChoice:
    result = BootResult(booted=False)
    for cpu in ("host", FALLBACK_CPU):
        result = await boot_linux(
            settings.binary,
            kernel,
            accelerator="kvm",
            cpu=cpu,
            deadline_s=settings.deadline_s,
            user=settings.user,
            parent=settings.parent,
        )
        if result.booted:
            note = "" if cpu == "host" else "; QEMU fails on the CPU model host, so VMs must name another"
            return AcceleratorChoice("kvm", f"KVM was seen booting {kernel}{note}", host_cpu=cpu == "host")
        if not result.aborted:
            break  # a kernel that hangs with the host's own CPU model hangs with a lesser one too
    return AcceleratorChoice("tcg", f"KVM opens but does not run a 64-bit Linux: {result.problem}")


def _key(facts: HostCapabilities, kernel: Path) -> str:
    """Stands for everything that the outcome depends on."""
    status = kernel.stat()
    parts = (
        os.uname().release,
        facts.cpu_name,
        facts.version,
        facts.binary,
        kernel,
        status.st_size,
        status.st_mtime_ns,
    )
    return hashlib.sha256(repr([str(part) for part in parts]).encode()).hexdigest()


def _remembered(state_file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        data = json.loads(state_file.read_text())
        if isinstance(data, dict):
            return data
    return {}


@asynccontextmanager
async def _locked(state_file: Path) -> AsyncIterator[None]:
    """Hold the lock that keeps two agents, or two tasks of one, from proving at once."""
    descriptor = os.open(state_file.with_name(f"{state_file.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)
