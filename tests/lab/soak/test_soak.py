"""A short soak: real agents, hundreds of moves of a VM without a guest. The long one is bench/soak."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bascule.lab.soak.figures import MIB
from bascule.lab.soak.pair import pair
from bascule.lab.soak.soak import HOME, VM, Plan, soak, start_fake
from bascule.lab.soak.workload import Workload
from bascule.qemu.process_record import find_in

pytestmark = pytest.mark.lab

COUNTS = ("descriptors", "open_files", "threads", "tasks")
KEEP = 20


@pytest.fixture
def workload() -> Iterator[Workload]:
    with pair({}) as sockets:
        made = Workload(sockets, VM)
        start_fake(made)
        yield made


def test_nothing_grows() -> None:
    """Memory is left to the long run: in so few moves it is Python's arenas that are measured."""
    result = soak(Plan(moves=80, warm_up=40, fake=True, sample_every=10, keep_moves=KEEP))

    assert result.moves >= 80
    grown = [growth.line for growth in result.growths if growth.excess and growth.figure in (*COUNTS, "journal_bytes")]
    assert not grown, "\n".join(grown)
    for host, samples in result.samples.items():
        assert max(sample.values["journal_bytes"] for sample in samples) < 4 * MIB, host
    assert {kind.partition(" ")[0] for kind in result.outcomes} == {"live", "quick", "cancelled", "refused"}


def test_a_move_can_begin_as_soon_as_the_one_before_has_ended(workload: Workload) -> None:
    """A cancelled move is told to have ended when nothing of it is left on either host, whenever it was cancelled."""
    for number in range(12):
        began = workload.do(workload.at, "POST", "/v1/moves", {"vm": VM, "destination": workload.other})
        if number % 3:
            workload.ask(workload.at, "POST", f"/v1/moves/{began['id']}/cancel")
        report = workload.follow(began["id"])
        assert report["outcome"] in ("completed", "cancelled"), report["reason"]
        left = workload.do(workload.other, "GET", "/v1/vms")
        if report["outcome"] == "completed":
            workload.at = workload.other
        else:
            assert left == []
            assert list(workload.sockets[workload.other].with_name("run").joinpath("vms").iterdir()) == []


def test_a_refused_move_leaves_the_vm_free_at_once(workload: Workload) -> None:
    for _ in range(10):
        status, _answer = workload.ask(
            HOME, "POST", "/v1/moves", {"vm": VM, "destination": "h2", "max_blackout_ms": 0.01}
        )
        assert status == 409
        assert workload.do(HOME, "GET", f"/v1/vms/{VM}")["state"] == "running"


PAIR_AND_WAIT = """
import signal
from bascule.lab.soak.pair import pair
from bascule.lab.soak.soak import VM, start_fake
from bascule.lab.soak.workload import Workload
with pair({}) as sockets:
    start_fake(Workload(sockets, VM))
    print(sockets["h1"].parent, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_a_pair_whose_program_is_ended(number: signal.Signals) -> None:
    """By a signal to its whole group, as timeout(1) and a terminal send it."""
    program = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-c", PAIR_AND_WAIT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert program.stdout is not None
        directory = Path(program.stdout.readline().decode().strip())
        vm = str(directory / "run" / "vms" / VM)
        assert len(find_in(vm)) == 1
        os.killpg(program.pid, number)
        program.communicate(timeout=60)
        assert find_in(vm) == []
        assert not directory.exists()
    finally:
        program.kill()
        program.wait()


def test_nothing_is_left_of_a_pair_whose_vm_still_runs() -> None:
    with pair({}) as sockets:
        made = Workload(sockets, VM)
        start_fake(made)
        directory: Path = sockets[HOME].parent
        vm = str(directory / "run" / "vms" / VM)
        assert len(find_in(vm)) == 1
    assert find_in(vm) == []
    assert not directory.exists()
