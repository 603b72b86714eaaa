"""The soak as a whole: agents, a VM, many moves, samples, and a verdict."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bascule.lab.guest_vm import GuestVm
from bascule.lab.laboratory import Lab
from bascule.lab.soak.figures import BOUNDS, Growth, Sample, judge
from bascule.lab.soak.pair import NAMES, pair
from bascule.lab.soak.workload import Workload

VM = "soak"
FAKE_VM = f'name = "{VM}"\nmemory = 64\naccel = "tcg"\n[boot]\nkernel = "{{kernel}}"\n'
HOME = NAMES[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, with which QEMU, and how often the agents are looked at."""

    moves: int
    warm_up: int
    fake: bool
    sample_every: int = 20
    keep_moves: int | None = None
    seed: int = 1


@dataclass
class Result:
    """What came of it. `idle` is the resident memory of agents that have no VM yet, in bytes."""

    moves: int = 0
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=lambda: {host: [] for host in NAMES})
    growths: list[Growth] = field(default_factory=list)
    idle: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing grew."""
        return bool(self.growths) and not any(growth.excess for growth in self.growths)


def soak(plan: Plan, tell: Callable[[str], None] = lambda _text: None) -> Result:
    """Move, sample and judge. Raises Failed where a move ends as none should."""
    result = Result()
    with _ground(plan) as (workload, start):
        for host in NAMES:
            result.idle[host] = workload.ask(host, "GET", "/v1/agent")[1]["resident_bytes"]
        start()
        began_s = time.monotonic()
        while result.moves < plan.moves:
            result.moves += 1
            workload.one()
            # A VM makes tasks and descriptors where it is: each sample is taken with it at the same place.
            if result.moves % plan.sample_every == 0 or result.moves == plan.moves:
                while workload.at != HOME:
                    workload.one()
                    result.moves += 1
                _sample(workload, result)
                tell(_progress(result, time.monotonic() - began_s))
        result.seconds = time.monotonic() - began_s
        result.outcomes = dict(workload.outcomes)
    for host in NAMES:
        result.growths += judge(host, result.samples[host], warm_up=plan.warm_up)
    return result


@contextmanager
def _ground(plan: Plan) -> Iterator[tuple[Workload, Callable[[], None]]]:
    """Yield what moves the VM, and what starts it. At the end nothing is left."""
    settings: dict[str, Any] = {} if plan.keep_moves is None else {"keep_moves": plan.keep_moves}
    if plan.fake:
        with pair(settings) as sockets:
            workload = Workload(sockets, VM, plan.seed)
            yield workload, lambda: start_fake(workload)
        return
    with Lab(f"soak{os.getpid()}") as lab:  # beside whatever lab its user has
        lab.up(hosts=len(NAMES), agent_settings=settings)
        places: dict[str, Path] = {host.name: host.socket for host in lab.hosts}
        guest = GuestVm(name=VM, memory_mib=128, dirty_mib=8, rate_mb_s=5)
        yield Workload(places, VM, plan.seed), lambda: guest.start(lab, HOME)


def start_fake(workload: Workload) -> None:
    """Define a VM without a guest, and start it."""
    kernel = workload.sockets[HOME].with_name("agent.toml")  # any file that is there: nothing boots
    workload.do(HOME, "POST", "/v1/vms", {"toml": FAKE_VM.format(kernel=kernel), "origin": "the soak"})
    workload.do(HOME, "POST", f"/v1/vms/{VM}/start", {})


def _sample(workload: Workload, result: Result) -> None:
    for host in NAMES:
        vitals = workload.do(host, "GET", "/v1/agent")
        result.tasks[host] = vitals["tasks_by_name"]
        values = {bound.figure: float(vitals[bound.figure]) for bound in BOUNDS}
        result.samples[host].append(Sample(result.moves, values))


def _progress(result: Result, seconds: float) -> str:
    newest = {host: result.samples[host][-1].values for host in NAMES}
    figures = "  ".join(
        f"{host}: {values['resident_bytes'] / 2**20:.1f} MiB, {values['descriptors']:.0f} descriptors, "
        f"{values['tasks']:.0f} tasks, {values['threads']:.0f} threads, "
        f"journal {values['journal_bytes'] / 2**20:.2f} MiB"
        for host, values in newest.items()
    )
    return f"{result.moves} moves in {seconds:.0f} s  {figures}"
