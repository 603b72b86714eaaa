"""What the parts of one agent share: its settings, its journal, what its QEMU can do, and its way to the others."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import structlog

from bascule import __version__
from bascule.agent.config import AgentConfig
from bascule.agent.peers import Peers
from bascule.agent.run_marks import RunMarks
from bascule.agent.urgency import Urgency
from bascule.errors import Refused
from bascule.journal.journal import Journal
from bascule.network.first_frame import FirstFrameWatch
from bascule.qemu import throwaway
from bascule.qemu.accelerator import AcceleratorChoice, ProofSettings, resolve
from bascule.qemu.capabilities import HostCapabilities
from bascule.qemu.capability_probe import CapabilityProbe
from bascule.qemu.qmp_schema import Features
from bascule.qemu.user import QemuUser, find_user

if TYPE_CHECKING:
    from bascule.agent.claims import Claims
    from bascule.agent.machines import Machines
    from bascule.agent.moves import Moves
    from bascule.agent.preflight import Preflight
    from bascule.agent.probes import Probes

Accel = Literal["auto", "kvm", "tcg"]


class Host:
    """This host, as its agent sees it. The daemon, which puts it together, sets what is declared here."""

    claims: Claims
    machines: Machines
    preflight: Preflight
    moves: Moves
    probes: Probes
    urgency: Urgency

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.journal = Journal(config.journal_path, keep_moves=config.keep_moves)
        self.peers = Peers()
        self.user: QemuUser = find_user(config.qemu_user)
        self.vm_directory = config.runtime_directory / "vms"
        self.run_marks = RunMarks(config.runtime_directory / "ran")
        self.probe = CapabilityProbe(
            config.qemu_binary,
            user=self.user,
            cache_file=config.cache_directory / "capabilities.json",
            parent=config.runtime_directory,
        )
        self.first_frames: dict[str, FirstFrameWatch] = {}  # by move, from its preparation until some seconds after it
        self._accelerators: dict[str, AcceleratorChoice] = {}
        self._resolving = asyncio.Lock()
        self._features: Features | None = None

    async def open(self) -> None:
        """Open the journal and learn what QEMU can do. Raises Refused if the host cannot serve."""
        make_directory(
            self.config.state_directory, 0o711
        )  # labs and disks may lie below; the journal is private itself
        make_directory(self.config.cache_directory, 0o755)
        make_directory(self.config.runtime_directory, 0o711)  # QEMU's user has to pass through to its own folder
        make_directory(self.vm_directory, 0o711)
        self.run_marks.open()
        for pid in await throwaway.sweep(self.config.runtime_directory):
            structlog.get_logger().info("ended a QEMU that an earlier agent had asked something", pid=pid)
        await self.journal.open()
        self.urgency = Urgency((threading.get_native_id(), await self.journal.thread_id()))
        await self.peers.open()
        self._features = (await self.probe.capabilities("tcg")).features

    async def close(self) -> None:
        """Close everything; VMs run on."""
        await self.peers.close()
        await self.journal.close()

    @property
    def name(self) -> str:
        """This host's name."""
        return self.config.name

    @property
    def features(self) -> Features:
        """What this host's QEMU understands of QMP."""
        if self._features is None:
            raise RuntimeError("open() was not called")
        return self._features

    async def accelerator(self, requested: Accel = "auto") -> AcceleratorChoice:
        """Choose what a VM runs on; `auto` is proven once and remembered."""
        async with self._resolving:
            if requested not in self._accelerators:
                settings = ProofSettings(
                    binary=self.config.qemu_binary,
                    state_file=self.config.cache_directory / "accelerator.json",
                    user=self.user,
                    kernel=self.config.proof_kernel,
                    parent=self.config.runtime_directory,
                )
                self._accelerators[requested] = await resolve(requested, settings, self.probe)
            return self._accelerators[requested]

    async def capabilities(self, accelerator: str) -> HostCapabilities:
        """Return what QEMU can do here with `accelerator`."""
        return await self.probe.capabilities(accelerator)

    @property
    def reachable_address(self) -> str:
        """Where the other hosts reach this host's QEMU processes."""
        if self.config.migration_address not in ("0.0.0.0", "::"):  # noqa: S104 - a comparison, nothing listens
            return self.config.migration_address
        return self.config.address_of(self.name).rpartition(":")[0].strip("[]")

    @property
    def migration_ports(self) -> range:
        """The ports on which this host's QEMU processes may listen for incoming VMs."""
        first, last = self.config.migration_ports
        return range(first, last + 1)

    async def about(self) -> dict[str, Any]:
        """Describe this host, for operators and for the other agents."""
        choice = await self.accelerator()
        capabilities = await self.capabilities(choice.name)
        total_mib, free_mib = memory_mib()
        return {
            "name": self.name,
            "version": __version__,
            "qemu_version": capabilities.version,
            "accelerator": choice.name,
            "accelerator_reason": choice.reason,
            "cpu_vendor": capabilities.cpu_vendor,
            "memory_total_mib": total_mib,
            "memory_free_mib": free_mib,
            "vms": len(await self.journal.vms()),
        }


def make_directory(path: Path, mode: int) -> None:
    """Make a directory with this mode, whatever the umask."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)


def memory_mib() -> tuple[int, int]:
    """Return this host's total and available memory in MiB."""
    values = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, rest = line.partition(":")
        values[key] = int(rest.split()[0]) // 1024
    return values["MemTotal"], values["MemAvailable"]


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has touched. Raises Refused if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError) as error:
        raise Refused(f"QEMU (pid {pid}) has just ended", "see bascule vm list") from error
    return pages * os.sysconf("SC_PAGE_SIZE")
