"""Agents that end and come back: VMs run on, and moves that were under way are finished or undone."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from contextlib import suppress

import pytest
from tests.lab.moves.conftest import Place

from bascule.errors import Failed
from bascule.lab.agents import log_tail

pytestmark = pytest.mark.lab

SLOW_LINK_BIT_S = 300_000_000
PHASES = ("preparing", "offering", "copying")  # the first ones may be over between two looks


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_vms_outlive_their_agent(place: Callable[..., Place], number: signal.Signals) -> None:
    there = place(dirty_mib=16, rate_mb_s=10)
    there.lab.kill_agent("h1", number)
    assert there.guest.status(there.lab)["corrupt_blocks"] == 0
    there.lab.start_agent("h1")
    there.assert_only_on("h1")
    there.move("h1", "h2")
    there.assert_only_on("h2")


@pytest.mark.parametrize("side", ["h1", "h2"])
@pytest.mark.parametrize("phase", ["preparing", "copying"])
def test_an_agent_is_killed_during_a_move(place: Callable[..., Place], side: str, phase: str) -> None:
    """Before the decision, so the VM stays where it was."""
    there = place(dirty_mib=32, rate_mb_s=5, link_bit_s=SLOW_LINK_BIT_S)
    there.start("h1", "migrate", "guest", "h2", heard=False)
    there.wait_phase("h1", *PHASES[PHASES.index(phase) :])
    there.lab.kill_agent(side)
    assert there.guest.status(there.lab)["corrupt_blocks"] == 0
    there.lab.start_agent(side)
    there.wait(lambda: there.newest("h1").get("outcome"), "the move's outcome")
    where = "h2" if there.newest("h1")["outcome"] == "completed" else "h1"
    there.assert_only_on(where)
    there.move(where, "h2" if where == "h1" else "h1")


def test_both_agents_are_killed_during_a_move(place: Callable[..., Place]) -> None:
    """QEMU goes on by itself; whatever it does, the VM runs on exactly one host afterwards."""
    there = place(dirty_mib=16, rate_mb_s=2, link_bit_s=SLOW_LINK_BIT_S)
    there.start("h1", "migrate", "guest", "h2", heard=False)
    there.wait_phase("h1", "copying")
    there.lab.kill_agent("h1")
    there.lab.kill_agent("h2")
    there.lab.start_agent("h1")
    there.lab.start_agent("h2")
    there.wait(lambda: there.newest("h1").get("outcome") not in (None, "unknown"), "the move's outcome")
    where = "h2" if there.newest("h1")["outcome"] == "completed" else "h1"
    there.assert_only_on(where)


def test_a_vm_that_the_journal_does_not_know_is_left_alone(place: Callable[..., Place]) -> None:
    """Its host's journal was lost or replaced by an older one: that is no reason to end what runs."""
    there = place()
    (pid,) = there.qemus("h1")
    there.lab.kill_agent("h1")
    state = there.lab.host("h1").places.state
    state.rename(state.with_name("kept"))
    for _ in range(2):  # the second start must not take it for half made either
        there.lab.start_agent("h1")
        assert there.qemus("h1") == [pid]
        assert there.state("h1") == "absent"
        assert "a VM runs that the journal does not know" in log_tail(there.lab.host("h1").places)
        there.lab.kill_agent("h1")
    shutil.rmtree(state)
    state.with_name("kept").rename(state)
    there.lab.start_agent("h1")
    there.assert_only_on("h1")
    there.move("h1", "h2")
    there.assert_only_on("h2")


def test_a_vm_that_was_started_after_the_journal_was_copied_is_left_alone(place: Callable[..., Place]) -> None:
    there = place()
    there.lab.kill_agent("h1")
    state = there.lab.host("h1").places.state
    shutil.copytree(state, state.with_name("copy"))
    there.lab.start_agent("h1")
    assert there.bascule("h1", "vm", "stop", "guest", "--force").returncode == 0
    assert there.bascule("h1", "vm", "start", "guest").returncode == 0
    (pid,) = there.qemus("h1")
    there.wait(lambda: answers(there), "the guest's services")
    there.lab.kill_agent("h1")
    state.rename(state.with_name("newer"))
    state.with_name("copy").rename(state)
    there.lab.start_agent("h1")
    assert there.qemus("h1") == [pid]
    assert "in another process than the journal says" in log_tail(there.lab.host("h1").places)
    started = there.bascule("h1", "vm", "start", "guest")
    assert (started.returncode, there.qemus("h1")) == (1, [pid]), started.stdout
    there.lab.kill_agent("h1")
    shutil.rmtree(state)
    state.with_name("newer").rename(state)
    there.lab.start_agent("h1")
    there.assert_only_on("h1")


def answers(there: Place) -> bool:
    """Whether the guest, which has just been started, has come as far."""
    with suppress(Failed):
        return bool(there.guest.status(there.lab))
    return False
