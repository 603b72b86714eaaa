"""What the guest does while it is moved, and what its clients do."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bascule.lab.guest_vm import GuestVm
from bascule.lab.laboratory import Lab
from harness.program_image import with_programs
from harness.programs import NATIVE_ECHO, REDIS

MEMORY_MIB = 1024
PYTHON_HZ = 2000  # what the guest's own echo is sure to answer under software emulation, also just after a move
SETTLED_S = 3.0  # of work before the first move, so that the guest has touched what it rewrites


@dataclass(frozen=True, slots=True)
class Workload:
    """`dirty_mib` of incompressible memory rewritten at `rate_mb_s`, `hz` UDP echoes a second, `load` beside them."""

    name: str
    doing: str
    dirty_mib: int = 0
    rate_mb_s: float = 0
    hz: float = 1000
    load: str = ""  # "", "redis" or "bulk"
    probe: str = "udp"  # or "icmp", which the guest's kernel answers: a tenth of the work of its UDP service

    @property
    def title(self) -> str:
        """What the guest does and is asked, with the rate."""
        rate = f"{self.hz / 1000:g} kHz" if self.hz >= 1000 else f"{self.hz:g} Hz"
        return f"{self.doing}, {rate} {self.probe.upper()} echo"

    @property
    def native_echo(self) -> bool:
        """Whether the datagrams are too many for the guest's own service, so that a native one answers them."""
        return self.probe == "udp" and self.hz > PYTHON_HZ


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("idle", "idle"),
        Workload("busy", "256 MiB rewritten at 200 MB/s", dirty_mib=256, rate_mb_s=200),
        Workload("redis", "Redis under load", load="redis"),
        Workload("bulk", "bulk TCP through the guest", load="bulk", hz=200),
        Workload("echo10k", "idle", hz=10_000),
        Workload("ping10k", "idle", hz=10_000, probe="icmp"),
    )
}


def guest_of(workload: Workload, memory_mib: int = MEMORY_MIB, queues: int = 1) -> GuestVm:
    """Return the lab's guest with the work that is asked for, and with the programs that it takes.

    `queues`: pairs of queues of its NIC, and as many vCPUs.
    """
    guest = GuestVm(
        memory_mib=memory_mib, dirty_mib=workload.dirty_mib, rate_mb_s=workload.rate_mb_s, vcpus=queues, queues=queues
    )
    programs = [REDIS] if workload.load == "redis" else []
    if workload.native_echo:
        programs.append(NATIVE_ECHO)
    if programs:
        with_programs(guest, programs)
    return guest


def settle(lab: Lab, guest: GuestVm, seconds: float = SETTLED_S) -> None:
    """Wait until the guest has gone through its memory at least twice, or has idled as long."""
    started = time.monotonic()
    deadline = started + seconds + 27
    while time.monotonic() < deadline:
        status = guest.status(lab)
        if time.monotonic() - started >= seconds and (not status["dirty_mib"] or status["passes"] >= 2):
            return
        time.sleep(0.2)
