"""What an operator sees and does when the two hosts cannot settle a move between themselves.

The destination's agent is frozen while memory is copied. Its QEMU loads everything without it, the source gives its
word, and no answer comes: the middle of the decision, for as long as a test likes.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.lab.moves.conftest import Place

from bascule.lab.agents import log_tail

pytestmark = pytest.mark.lab

SLOW_LINK_BIT_S = 300_000_000


def held_in_the_decision(there: Place, *, heard: bool = False) -> subprocess.Popen[bytes]:
    command = there.start("h1", "migrate", "guest", "h2", heard=heard)
    there.wait_phase("h1", "copying")
    there.lab.signal_agent("h2", signal.SIGSTOP)
    there.wait_phase("h1", "deciding", "unsettled")
    return command


def power_off(there: Place, host: str) -> None:
    """End what there is of a host: its agent and its QEMU."""
    there.lab.kill_agent(host)
    there.kill_qemu(host)
    there.wait(lambda: not there.qemus(host), f"no QEMU on {host}")


def standing(there: Place, host: str) -> dict[str, Any]:
    """Return what `bascule status` says of the guest, whose exit status has to agree with it."""
    done = there.bascule(host, "status", "guest", "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (4 if found["standing"] == "unknown" else 0), done.stdout
    return found


def wait_standing(there: Place, host: str, wanted: str) -> dict[str, Any]:
    return there.wait(
        lambda: found if (found := standing(there, host))["standing"] == wanted else None, f"{wanted} on {host}"
    )


def run_here(there: Place, host: str, other: str) -> subprocess.CompletedProcess[str]:
    return there.bascule(host, "recover", "guest", "--run-here", "--confirm-down", other)


def test_the_destination_comes_back(place: Callable[..., Place]) -> None:
    """Unknown, and settled by nothing but the other agent's return."""
    there = place(dirty_mib=32, rate_mb_s=5, link_bit_s=SLOW_LINK_BIT_S)
    command = held_in_the_decision(there, heard=True)
    there.lab.kill_agent("h2")
    out, err = command.communicate(timeout=60)
    assert command.returncode == 4, out + err
    assert b"bascule status guest" in b" ".join((out + err).split())

    said = there.bascule("h1", "status", "guest")
    assert said.returncode == 4
    assert said.stdout.startswith("It is not known whether vm guest runs on h2.\n")
    assert "bascule recover guest --run-here" in said.stdout
    listed = there.bascule("h1", "status")
    assert (listed.returncode, listed.stdout.splitlines()[1].split()[:2]) == (4, ["guest", "unknown"])
    assert there.bascule("h1", "recover", "guest").returncode == 4
    no_terminal = there.bascule("h1", "recover", "guest", "--run-here")
    assert (no_terminal.returncode, "no terminal" in no_terminal.stderr) == (1, True)
    wrong = run_here(there, "h1", "h3")
    assert (wrong.returncode, "that h2 is down, and you named h3" in wrong.stderr) == (1, True)

    there.lab.start_agent("h2")
    there.assert_only_on("h2")
    there.wait(lambda: "belongs to h2" in standing(there, "h1")["summary"], "h1 knows where the VM is")
    assert standing(there, "h2")["summary"] == "vm guest runs on h2"
    assert there.newest("h1")["outcome"] == "completed"
    there.move("h2", "h1")
    there.assert_only_on("h1")


def test_the_source_is_told_to_run_and_the_destination_stands_down(place: Callable[..., Place]) -> None:
    there = place(dirty_mib=32, rate_mb_s=5, link_bit_s=SLOW_LINK_BIT_S)
    held_in_the_decision(there)
    power_off(there, "h2")

    done = run_here(there, "h1", "h2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert there.state("h1") == "running"
    assert there.guest.status(there.lab)["corrupt_blocks"] == 0
    told = standing(there, "h1")
    assert (told["standing"], "of which h2 has not heard yet" in told["summary"]) == ("under-way", True)
    again = run_here(there, "h1", "h2")
    assert (again.returncode, "no move of it is unsettled" in again.stderr) == (1, True)

    there.lab.start_agent("h2")
    there.assert_only_on("h1")
    wait_standing(there, "h1", "settled")
    assert there.newest("h1")["outcome"] == "failed"
    assert there.newest("h2")["outcome"] == "refused"
    there.move("h1", "h2")
    there.assert_only_on("h2")


def test_a_destination_that_loses_power_with_the_word_in_its_hands_is_asked_anew(place: Callable[..., Place]) -> None:
    """The connection by which the word went never breaks: its other end is gone, and nothing is under way on it."""
    there = place(dirty_mib=32, rate_mb_s=5, link_bit_s=SLOW_LINK_BIT_S)
    held_in_the_decision(there)
    there.lab.cut_link("h2")
    power_off(there, "h2")
    there.lab.heal_link("h2")
    there.lab.start_agent("h2")
    there.wait(lambda: there.newest("h1").get("outcome") == "failed", "the end of the move on h1")
    there.assert_only_on("h1")
    there.move("h1", "h2")
    there.assert_only_on("h2")


def test_a_saved_state_that_was_being_loaded_when_its_agent_died_is_kept(place: Callable[..., Place]) -> None:
    """The destination's QEMU does not answer its new agent, which is asked to let it load: it may have everything."""
    there = place(dirty_mib=64, rate_mb_s=5)
    there.start("h1", "migrate", "guest", "h2", "--quick", heard=False)
    there.wait(lambda: there.qemus("h2"), "a QEMU on h2")
    there.wait(lambda: loads_a_state(there.qemus("h2")), "the saved state in the hands of QEMU on h2")
    there.kill_qemu("h2", signal.SIGSTOP)
    there.lab.kill_agent("h2")
    there.kill_qemu("h1")
    there.lab.start_agent("h2")
    there.wait(lambda: "the saved state waits" in log_tail(there.lab.host("h2").places), "h2 being asked to load it")
    there.kill_qemu("h2", signal.SIGCONT)
    there.wait(lambda: there.newest("h1").get("outcome") == "completed", "the end of the move on h1")
    there.assert_only_on("h2")


def loads_a_state(qemus: list[int]) -> bool:
    """Whether one of these has a saved state open."""
    files = [file for pid in qemus for file in Path(f"/proc/{pid}/fd").iterdir()]
    with suppress(OSError):
        return any("bascule-state" in str(file.readlink()) for file in files)
    return False


def test_the_destination_is_told_to_run_and_the_source_stands_down(place: Callable[..., Place]) -> None:
    """The source is lost before its word is heard: the destination has the only copy, and does not know."""
    there = place(dirty_mib=32, rate_mb_s=5, link_bit_s=SLOW_LINK_BIT_S)
    held_in_the_decision(there)
    power_off(there, "h1")
    there.lab.kill_agent("h2")  # with it goes the word that it has not read
    there.lab.start_agent("h2")

    told = wait_standing(there, "h2", "unknown")
    assert told["summary"] == "a complete copy of vm guest waits on h2 for the word of h1"
    refused = there.bascule("h2", "cancel", "guest")
    assert (refused.returncode, "is here completely" in refused.stderr) == (1, True)
    assert there.bascule("h2", "recover", "guest").returncode == 4
    done = run_here(there, "h2", "h1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert there.guest.status(there.lab)["corrupt_blocks"] == 0

    there.lab.start_agent("h1")
    there.assert_only_on("h2")
    wait_standing(there, "h2", "settled")
    there.move("h2", "h1")
    there.assert_only_on("h1")


def test_a_confirmation_that_was_wrong(place: Callable[..., Place]) -> None:
    """The destination has taken the VM and runs it, and only its agent is dead. The VM's disk says so; without one
    two copies run, and become one as soon as the agents hear of each other."""
    there = place(dirty_mib=32, rate_mb_s=5, link_bit_s=SLOW_LINK_BIT_S)
    held_in_the_decision(there)
    there.lab.cut_link("h2")
    there.lab.signal_agent("h2", signal.SIGCONT)  # and now it reads the word
    there.wait(lambda: there.state("h2") == "running", "the guest running on h2")
    there.lab.kill_agent("h2")

    done = run_here(there, "h1", "h2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (len(there.qemus("h1")), len(there.qemus("h2"))) == (1, 1)

    there.lab.heal_link("h2")
    there.lab.start_agent("h2")
    there.assert_only_on("h1")
    wait_standing(there, "h1", "settled")
    assert "belongs to h1" in standing(there, "h2")["summary"]
    there.move("h1", "h2")
    there.assert_only_on("h2")


def test_a_host_that_shows_itself_is_not_down(place: Callable[..., Place]) -> None:
    """By its agent, which answers; by the lock on the VM's disk, where its agent is dead."""
    there = place(dirty_mib=32, rate_mb_s=5, link_bit_s=SLOW_LINK_BIT_S)
    disk = there.lab.shared_directory / "data.qcow2"
    made = there.lab.run("h1", ["qemu-img", "create", "-f", "qcow2", str(disk), "64M"])
    assert made.returncode == 0, made.stderr
    there.lab.give_to_qemu(disk)
    there.bascule("h1", "vm", "stop", "guest", "--force")
    there.bascule("h1", "vm", "delete", "guest")
    there.guest.start(there.lab, "h1", f'[[disks]]\npath = "{disk}"\nformat = "qcow2"')
    held_in_the_decision(there)
    there.kill_qemu("h2", signal.SIGSTOP)
    there.lab.signal_agent("h2", signal.SIGCONT)  # it reads the word and takes the VM, which it cannot let run

    told = wait_standing(there, "h2", "unknown")
    assert told["summary"] == "vm guest belongs to h2 and does not run"
    answers = run_here(there, "h1", "h2")
    assert (answers.returncode, "h2 is not down, its agent answers" in answers.stderr) == (1, True), answers.stderr
    there.lab.cut_link("h2")
    there.kill_qemu("h2", signal.SIGCONT)
    there.wait(lambda: there.state("h2") == "running", "the guest running on h2")
    there.lab.kill_agent("h2")
    written = run_here(there, "h1", "h2")
    assert (written.returncode, "is written by" in written.stderr) == (1, True), written.stderr
    there.lab.heal_link("h2")
    there.lab.start_agent("h2")
    there.assert_only_on("h2")


def test_a_copy_that_is_not_complete_is_cancelled_where_it_arrives(place: Callable[..., Place]) -> None:
    there = place(dirty_mib=32, rate_mb_s=5, link_bit_s=SLOW_LINK_BIT_S)
    command = there.start("h1", "migrate", "guest", "h2")
    there.wait_phase("h1", "copying")
    coming = there.bascule("h2", "status", "guest")
    assert coming.returncode == 0
    assert "VM guest is coming in from h1" in coming.stdout
    cancelled = there.bascule("h2", "cancel", "guest")
    assert cancelled.returncode == 0, cancelled.stderr
    out, err = command.communicate(timeout=60)
    assert command.returncode == 3, out + err
    there.assert_only_on("h1")
    there.move("h1", "h2")
    there.assert_only_on("h2")
