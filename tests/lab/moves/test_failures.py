"""Moves that fail: a clear error, the VM running, nothing lost, nothing left behind, and the next move works."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.lab.moves.conftest import Place

pytestmark = pytest.mark.lab

SLOW_LINK_BIT_S = 300_000_000  # a copy of some seconds, so that there is time to break it


def ended(command: subprocess.Popen[bytes]) -> tuple[int, str]:
    out, err = command.communicate(timeout=60)
    return command.returncode, (out + err).decode()


def test_the_destinations_qemu_is_killed(place: Callable[..., Place]) -> None:
    there = place(dirty_mib=32, rate_mb_s=5, link_bit_s=SLOW_LINK_BIT_S)
    command = there.start("h1", "migrate", "guest", "h2")
    there.wait_phase("h1", "copying")
    there.kill_qemu("h2")
    status, said = ended(command)
    assert status == 3, said
    assert "copy failed" in said
    there.assert_only_on("h1")
    there.move("h1", "h2")
    there.assert_only_on("h2")


@pytest.mark.parametrize("by", ["ctrl-c", "command"])
def test_cancel(place: Callable[..., Place], by: str) -> None:
    there = place(dirty_mib=32, rate_mb_s=5, link_bit_s=SLOW_LINK_BIT_S)
    command = there.start("h1", "migrate", "guest", "h2")
    there.wait_phase("h1", "copying")
    if by == "ctrl-c":
        os.killpg(command.pid, signal.SIGINT)
    else:
        assert there.bascule("h1", "cancel", "guest").returncode == 0
    status, said = ended(command)
    assert status == 3, said
    assert "cancelled" in said
    there.assert_only_on("h1")
    there.move("h1", "h2")
    there.assert_only_on("h2")


def test_a_guest_too_busy_for_its_link(place: Callable[..., Place]) -> None:
    there = place(dirty_mib=64, rate_mb_s=60, link_bit_s=100_000_000)
    done = there.bascule("h1", "migrate", "guest", "h2", "--deadline", "25s", "--max-blackout", "50ms")
    assert done.returncode == 3, done.stdout
    assert "dirtied" in done.stdout + done.stderr
    there.assert_only_on("h1")


def test_a_second_move_of_the_same_vm(place: Callable[..., Place]) -> None:
    there = place(dirty_mib=32, rate_mb_s=5, hosts=3, link_bit_s=SLOW_LINK_BIT_S)
    first = there.start("h1", "migrate", "guest", "h2")
    there.wait_phase("h1", "copying")
    second = there.bascule("h1", "migrate", "guest", "h3")
    assert second.returncode == 1
    assert "under way" in second.stderr
    assert there.bascule("h1", "vm", "stop", "guest", "--force").returncode == 1
    assert ended(first)[0] == 0
    there.assert_only_on("h2")


def test_many_requests_at_once(place: Callable[..., Place]) -> None:
    there = place(hosts=3)
    commands = [there.start("h1", "migrate", "guest", host) for host in ("h2", "h3", "h2", "h3")]
    statuses = sorted(ended(command)[0] for command in commands)
    assert statuses == [0, 1, 1, 1]
    (where,) = [host for host in ("h2", "h3") if there.state(host) == "running"]
    there.assert_only_on(where)


def fill(filler: Path) -> None:
    """Take all of the file system but a little, while the saved state grows beside it."""
    with filler.open("wb") as file:
        while True:
            free = os.fstatvfs(file.fileno())
            try:
                size = os.fstat(file.fileno()).st_size
                os.posix_fallocate(file.fileno(), size, max(1, free.f_bavail * free.f_frsize - (8 << 20)))
            except OSError as error:  # the saved state was faster
                if error.errno != errno.ENOSPC:
                    raise
            else:
                return


def test_the_shared_disk_fills_up(place: Callable[..., Place]) -> None:
    there = place(dirty_mib=64, rate_mb_s=20, shared_size_mib=400)
    filler = there.lab.shared_directory / "filler"
    command = there.start("h1", "migrate", "guest", "h2", "--quick")
    there.wait_phase("h1", "preparing", "offering", "saving")
    fill(filler)
    status, said = ended(command)
    filler.unlink()
    assert status == 3, said
    assert "No space left" in " ".join(said.split()), said
    there.assert_only_on("h1")
    there.move("h1", "h2", "--quick")
    there.assert_only_on("h2")


def test_no_room_is_found_before_anything_changes(place: Callable[..., Place]) -> None:
    there = place(shared_size_mib=64)
    done = there.bascule("h1", "migrate", "guest", "h2", "--quick")
    assert done.returncode == 1
    assert "MiB free" in done.stderr
    there.assert_only_on("h1")


def test_refusals(place: Callable[..., Place]) -> None:
    there = place()
    unknown = there.bascule("h1", "migrate", "guest", "h9")
    assert (unknown.returncode, "known hosts: h1, h2" in unknown.stderr) == (1, True)
    itself = there.bascule("h1", "migrate", "guest", "h1")
    assert (itself.returncode, "there already" in itself.stderr) == (1, True)
    impossible = there.bascule("h1", "migrate", "guest", "h2", "--max-blackout", "0.1ms")
    assert (impossible.returncode, "cannot be promised" in impossible.stderr) == (1, True)
    there.lab.kill_agent("h2")
    dead = there.bascule("h1", "migrate", "guest", "h2")
    assert (dead.returncode, "could not be asked" in dead.stderr) == (1, True)
    there.lab.start_agent("h2")
    typo = there.lab.shared_directory / "typo.toml"
    typo.write_text('name = "web"\nmemmory = 512\n[[nics]]\nbrigde = "br0"\n')
    wrong = there.bascule("h1", "vm", "define", str(typo))
    assert wrong.returncode == 1
    assert "memmory" in wrong.stderr
    assert "brigde" in wrong.stderr
    there.assert_only_on("h1")


def test_all_findings_together(place: Callable[..., Place]) -> None:
    there = place()
    there.lab.run("h2", ["ip", "link", "set", "up0", "nomaster"])
    there.lab.run("h2", ["ip", "addr", "add", f"{there.lab.host('h2').address}/24", "dev", "up0"])
    there.lab.run("h2", ["ip", "link", "del", "br0"])
    other = there.guest.definition(there.lab).replace(there.guest.mac, "52:54:00:00:00:09")
    there.lab.request("h2", "POST", "/v1/vms", {"toml": other, "origin": "test"})
    done = there.bascule("h1", "migrate", "guest", "h2")
    assert done.returncode == 1
    assert "bridge br0" in done.stderr
    assert "another VM named guest" in done.stderr
    assert there.state("h1") == "running"


def test_a_frozen_destination_agent_is_said_and_survived(place: Callable[..., Place]) -> None:
    there = place()
    there.lab.signal_agent("h2", signal.SIGSTOP)
    thaw = threading.Timer(45, lambda: there.lab.signal_agent("h2", signal.SIGCONT))
    thaw.start()
    try:
        done = there.bascule("h1", "migrate", "guest", "h2")
    finally:
        thaw.cancel()
        there.lab.signal_agent("h2", signal.SIGCONT)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "did not answer" in done.stderr
    there.assert_only_on("h1")
