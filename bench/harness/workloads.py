"""What the guest does while it is moved, and what its clients do."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bascule.lab.guest_vm import GuestVm
from bascule.lab.laboratory import Lab

MEMORY_MIB = 1024
SETTLED_S = 3.0  # of work before the first move, so that the guest has touched what it rewrites


@dataclass(frozen=True, slots=True)
class Workload:
    """`dirty_mib` of incompressible memory rewritten at `rate_mb_s`, `hz` UDP echoes a second, `load` beside them."""

    name: str
    title: str
    dirty_mib: int = 0
    rate_mb_s: float = 0
    hz: float = 1000
    load: str = ""  # "", "redis" or "bulk"
    probe: str = "udp"  # or "icmp", which the guest's kernel answers: a tenth of the work of its UDP service


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("idle", "idle, 1 kHz UDP echo"),
        Workload("busy", "256 MiB rewritten at 200 MB/s, 1 kHz UDP echo", dirty_mib=256, rate_mb_s=200),
        Workload("redis", "Redis under load, 1 kHz UDP echo", load="redis"),
        Workload("bulk", "bulk TCP through the guest, 200 Hz UDP echo", load="bulk", hz=200),
        Workload("echo10k", "idle, 10 kHz UDP echo", hz=10_000),
        Workload("ping10k", "idle, 10 kHz ICMP echo", hz=10_000, probe="icmp"),
    )
}


def guest_of(workload: Workload, memory_mib: int = MEMORY_MIB) -> GuestVm:
    """Return the lab's guest with the work that is asked for; for Redis see `redis_image`."""
    guest = GuestVm(memory_mib=memory_mib, dirty_mib=workload.dirty_mib, rate_mb_s=workload.rate_mb_s)
    if workload.load == "redis":
        from harness.redis_image import with_redis  # noqa: PLC0415 - it fetches packages

        with_redis(guest)
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
