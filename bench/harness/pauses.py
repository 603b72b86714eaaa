"""A guest stopped and let run again where it is: what a move is to be compared with."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

from bascule.lab.laboratory import Lab
from bascule.qemu.qmp import QmpEvent, QmpSession


def take_monitor(lab: Lab, host: str) -> str:
    """Return the path of the guest's monitor, once the agent that holds it has been ended."""
    lab.kill_agent(host)
    (monitor,) = (lab.host(host).places.run / "vms").glob("*/qmp.sock")
    return str(Path(monitor))


class Pause(NamedTuple):
    """When no vCPU ran, in microseconds of the wall clock, by QEMU's STOP and RESUME."""

    stopped_us: int
    resumed_us: int

    @property
    def length_ms(self) -> float:
        """How long the vCPUs stood still."""
        return (self.resumed_us - self.stopped_us) / 1000


async def pause(monitor: str, pause_ms: float) -> Pause:
    """Stop the vCPUs for about so long."""
    seen: dict[str, int] = {}
    resumed = asyncio.Event()

    def on_event(event: QmpEvent) -> None:
        seen[event.name] = event.at_us
        if event.name == "RESUME":
            resumed.set()

    session = await QmpSession.connect(monitor, on_event, deadline_s=5)
    try:
        await session.execute("stop")
        await asyncio.sleep(pause_ms / 1000)
        await session.execute("cont")
        await resumed.wait()
    finally:
        await session.close()
    return Pause(seen["STOP"], seen["RESUME"])
