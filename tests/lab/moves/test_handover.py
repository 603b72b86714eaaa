"""No frame is lost in a switchover, and none comes twice: a client asks the guest all the time, and counts.

It asks 100 times a second: an emulated guest on a busy machine stands still for a second now and then without any move,
and what waits for it then must fit into its socket, else it loses datagrams by itself.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.lab.moves.conftest import Place

from bascule.lab.names import namespace
from bascule.network.probe.session import ProbeSession

pytestmark = pytest.mark.lab

HZ = 100
MOVES = 6
ANSWERS_S = 10.0
SLOW_LINK_BIT_S = 100_000_000
# Written faster than the link carries it: some MiB are left for the blackout, which takes a second.
BUSY = {"dirty_mib": 16, "rate_mb_s": 60, "link_bit_s": SLOW_LINK_BIT_S}


@contextmanager
def client(there: Place, folder: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    """Ask the guest; what it yields waits for the last answers and returns what was felt since the beginning."""
    with ProbeSession.start(
        folder / "client.probe",
        namespace=namespace(there.lab.name, "client"),
        udp=f"{there.guest.address}:7",
        tcp=f"{there.guest.address}:7",
        hz=HZ,
    ) as probe:
        probe.wait_connected()
        begin_ns = time.monotonic_ns()

        def felt() -> dict[str, Any]:
            end_ns = time.monotonic_ns()
            status = there.guest.status(there.lab)
            assert status["corrupt_blocks"] == 0, status
            stream = probe.connection("tcp", begin_ns, end_ns)
            assert stream is not None
            assert stream.is_unbroken, stream.sentence()
            deadline_s = time.monotonic() + ANSWERS_S
            while True:  # an answer may be under way, or not yet written down
                outage = probe.outage("udp", begin_ns, end_ns).to_dict()
                if not outage["lost"] or time.monotonic() > deadline_s:
                    return outage
                time.sleep(0.1)

        yield felt


def assert_nothing_lost(felt: dict[str, Any]) -> None:
    told = json.dumps({name: value for name, value in felt.items() if name != "samples"})
    assert (felt["lost"], felt["duplicated"]) == (0, 0), told


def assert_moves_lose_nothing(
    there: Place, folder: Path, is_as_it_was: Callable[[str], bool] = lambda _host: True
) -> None:
    """To and fro; `is_as_it_was` is asked of each host on which the guest runs."""
    hosts = ["h1", "h2"]
    frames = []
    assert is_as_it_was("h1")
    with client(there, folder) as felt:
        for _ in range(MOVES):
            report = there.move(*hosts, "--max-blackout", "2s")
            there.assert_only_on(hosts[1])
            assert is_as_it_was(hosts[1])
            frames.append(report["frames"])
            hosts.reverse()
        assert_nothing_lost(felt())
    assert sum(each["lost"] for each in frames) == 0, frames
    assert sum(each["carried"] + each["waited"] for each in frames) > 0, frames


def test_no_frame_is_lost_or_comes_twice(place: Callable[..., Place], tmp_path: Path) -> None:
    assert_moves_lose_nothing(place(), tmp_path)


def test_a_guest_of_two_nics(place: Callable[..., Place], tmp_path: Path) -> None:
    """The frames of the second are handed over beside those of the first; nobody talks to it here."""
    there = place()
    there.bascule("h1", "vm", "stop", "guest", "--force")
    there.bascule("h1", "vm", "delete", "guest")
    there.guest.start(there.lab, "h1", '[[nics]]\nbridge = "br0"\nmac = "52:54:00:77:01:32"')
    with client(there, tmp_path) as felt:
        report = there.move("h1", "h2", "--max-blackout", "2s")
        assert_nothing_lost(felt() | {"frames": report["frames"]})
    assert report["frames"]["lost"] == 0


def test_a_guest_of_several_queues(place: Callable[..., Place], tmp_path: Path) -> None:
    """Its two vCPUs have a pair each; by which of them a flow goes, its kernel chooses again and again."""
    there = place(vcpus=2, queues=2)
    assert_moves_lose_nothing(there, tmp_path, lambda host: used_queues(there, host) == 2)


def used_queues(there: Place, host: str) -> int:
    """How many queues of its tap the guest uses there: the others are taken off it."""
    (tap,) = there.taps(host)
    (link,) = json.loads(there.lab.run(host, ["ip", "-json", "-details", "link", "show", tap]).stdout)
    return int(link["linkinfo"]["info_data"]["numqueues"])


def broken_off(there: Place, how: str) -> None:
    if how == "cancel":
        assert there.bascule("h1", "cancel", "guest").returncode == 0
    else:
        there.kill_qemu("h2")


@pytest.mark.parametrize("how", ["cancel", "the destination's QEMU is killed"])
def test_a_switchover_that_fails_gives_the_frames_back(place: Callable[..., Place], tmp_path: Path, how: str) -> None:
    """That which QEMU drops as it stops its vCPUs included."""
    there = place(**BUSY)
    with client(there, tmp_path) as felt:
        command = there.start("h1", "migrate", "guest", "h2", "--max-blackout", "5s", "--json")
        there.wait_phase("h1", "switching-over")
        broken_off(there, how)
        out, err = command.communicate(timeout=60)
        assert command.returncode == 3, (out + err).decode()
        report = json.loads(out)
        there.assert_only_on("h1")
        assert_nothing_lost(felt() | {"frames": report["frames"]})
    assert "STOP" in [mark["what"] for mark in report["marks"]]
    assert (report["frames"]["lost"], report["frames"]["why"]) == (0, "")
    there.move("h1", "h2", "--max-blackout", "5s")


@contextmanager
def nothing_can_be_written(journal: Path) -> Iterator[None]:
    """Somebody else writes to it."""
    with closing(sqlite3.connect(journal, isolation_level=None)) as other:
        other.execute("begin immediate")
        yield
        other.execute("rollback")


def test_a_vm_that_goes_back_unrun_gets_its_frames(place: Callable[..., Place], tmp_path: Path) -> None:
    """It belongs to the destination already when its QEMU dies, and nobody has told it to run."""
    there = place(**BUSY)
    journal = there.lab.host("h2").places.state / "journal.db"
    with client(there, tmp_path) as felt:
        command = there.start("h1", "migrate", "guest", "h2", "--max-blackout", "5s", "--json")
        there.wait_phase("h1", "switching-over")
        with nothing_can_be_written(journal):
            there.wait_phase("h1", "deciding")
            there.kill_qemu("h2", signal.SIGSTOP)
        with closing(sqlite3.connect(journal)) as reader:
            there.wait(lambda: reader.execute("select * from vm where here = 1").fetchall(), "h2 to take it")
        there.kill_qemu("h2")
        out, err = command.communicate(timeout=60)
        assert command.returncode == 3, (out + err).decode()
        report = json.loads(out)
        there.assert_only_on("h1")
        assert_nothing_lost(felt() | {"frames": report["frames"]})
    assert "gave it back unrun" in report["reason"], report["reason"]
    assert (report["frames"]["lost"], report["frames"]["why"]) == (0, "")


def test_a_destination_agent_that_is_frozen_in_the_switchover(place: Callable[..., Place], tmp_path: Path) -> None:
    """The hand-over is beside the move: it comes late, and the VM arrives all the same, its connections alive."""
    there = place(**BUSY)
    with client(there, tmp_path) as felt:
        command = there.start("h1", "migrate", "guest", "h2", "--max-blackout", "5s", "--json")
        there.wait_phase("h1", "switching-over")
        there.lab.signal_agent("h2", signal.SIGSTOP)
        try:
            there.wait_phase("h1", "deciding")
        finally:
            there.lab.signal_agent("h2", signal.SIGCONT)
        out, err = command.communicate(timeout=60)
        assert command.returncode == 0, (out + err).decode()
        there.assert_only_on("h2")
        assert_nothing_lost(felt() | {"frames": json.loads(out)["frames"]})


def switch_without_memory(there: Place) -> None:
    """The switch learns nothing and sends every frame to everybody."""
    switch = namespace(there.lab.name, "sw")
    for port in ("h1", "h2"):
        subprocess.run(
            ["ip", "-n", switch, "link", "set", port, "type", "bridge_slave", "learning", "off", "flood", "on"],
            check=True,
        )
    subprocess.run(["ip", "-n", switch, "link", "set", "br0", "type", "bridge", "fdb_flush"], check=True)


def test_a_switch_that_does_not_learn(place: Callable[..., Place], tmp_path: Path) -> None:
    """Every frame comes to both hosts, and is given once."""
    there = place()
    switch_without_memory(there)
    hosts = ["h1", "h2"]
    with client(there, tmp_path) as felt:
        frames = []
        for _ in range(MOVES):
            frames.append(there.move(*hosts, "--max-blackout", "2s")["frames"])
            hosts.reverse()
        assert_nothing_lost(felt() | {"frames": frames})


def places_held(there: Place, host: str) -> list[str]:
    listing = ["bridge", "-n", namespace(there.lab.name, host), "-d", "fdb", "show", "br", "br0"]
    told = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    return [line for line in told.splitlines() if there.guest.mac in line and "sticky" in line]


@pytest.mark.parametrize("end", ["cancel", "the source's agent is killed"])
def test_the_source_holds_the_vms_place_until_the_move_is_over(place: Callable[..., Place], end: str) -> None:
    there = place(**BUSY)
    command = there.start("h1", "migrate", "guest", "h2", "--max-blackout", "5s", "--json")
    there.wait(lambda: places_held(there, "h1"), "the place to be held")
    if end == "cancel":
        assert there.bascule("h1", "cancel", "guest").returncode == 0
    else:
        there.lab.kill_agent("h1")
        assert places_held(there, "h1")
        there.lab.start_agent("h1")
    command.communicate(timeout=60)
    there.assert_only_on("h1")
    there.wait(lambda: not places_held(there, "h1"), "the place to be let go")
    there.move("h1", "h2", "--max-blackout", "5s")
    assert not places_held(there, "h1")
    there.wait(lambda: places_held(there, "h2"), "the place to be held on the destination")
    there.wait(lambda: not places_held(there, "h2"), "the place to be let go on the destination")
