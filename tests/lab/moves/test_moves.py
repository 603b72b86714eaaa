"""Moves that succeed, as a user types them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from tests.lab.moves.conftest import Place

from bascule.lab.names import namespace
from bascule.network.probe.session import ProbeSession

pytestmark = pytest.mark.lab

REPORT_KEYS = {
    *("id", "vm", "source", "destination", "mode", "outcome", "reason", "total_s", "rounds", "blackout_ms"),
    *("forecast", "outage"),
}
OUTAGE_KEYS = {"probe_hz", "sent", "lost", "duplicated", "reordered", "longest_silence_ms"}


def test_twenty_moves_in_a_row(place: Callable[..., Place], tmp_path: Path) -> None:
    """A busy guest goes round and round; connections opened before the first move are open after the last."""
    there = place(dirty_mib=32, rate_mb_s=20, hosts=3)
    address = there.guest.address
    with ProbeSession.start(
        tmp_path / "client.probe",
        namespace=namespace(there.lab.name, "client"),
        udp=f"{address}:7",
        tcp=f"{address}:7",
        http=f"http://{address}/",
        hz=50,
    ) as probe:
        probe.wait_connected()
        begin_ns = time.monotonic_ns()
        route = ["h1", "h2", "h3"] * 7
        for source, destination in pairwise(route[:21]):
            report = there.move(source, destination)
            assert report.keys() >= REPORT_KEYS
            assert report["blackout_ms"] > 0
            assert sum(part["ms"] for part in report["blackout"]) == pytest.approx(report["blackout_ms"], abs=1)
            there.assert_only_on(destination)
        end_ns = time.monotonic_ns()
        for stream in ("tcp", "http"):
            connection = probe.connection(stream, begin_ns, end_ns)
            assert connection is not None
            assert connection.is_unbroken, connection.sentence()
        assert probe.connection("tcp", begin_ns, end_ns).verified_bytes > 0
        outage = probe.outage("udp", begin_ns, end_ns).to_dict()
        assert outage.keys() >= OUTAGE_KEYS
        assert outage["duplicated"] == 0
    assert there.guest.status(there.lab)["passes"] > 0
    moves = there.lab.request("h1", "GET", "/v1/moves")
    assert {move["outcome"] for move in moves} == {"completed"}


def test_quick_migration_and_back(place: Callable[..., Place]) -> None:
    there = place(dirty_mib=16, rate_mb_s=10)
    report = there.move("h1", "h2", "--quick")
    assert report["mode"] == "quick"
    assert [part["phase"] for part in report["blackout"]] == [
        "save",
        "word to the destination",
        "load",
        "decision",
        "run",
    ]
    there.assert_only_on("h2")
    there.move("h2", "h1", "--quick")
    there.assert_only_on("h1")
    there.move("h1", "h2")
    there.assert_only_on("h2")


def test_a_disk_goes_along(place: Callable[..., Place]) -> None:
    """The guest's disk is the same file on both hosts, in use on one at a time."""
    there = place()
    disk = there.lab.shared_directory / "data.qcow2"
    made = there.lab.run("h1", ["qemu-img", "create", "-f", "qcow2", str(disk), "64M"])
    assert made.returncode == 0, made.stderr
    there.lab.give_to_qemu(disk)
    there.bascule("h1", "vm", "stop", "guest", "--force")
    there.bascule("h1", "vm", "delete", "guest")
    there.guest.start(there.lab, "h1", f'[[disks]]\npath = "{disk}"\nformat = "qcow2"')
    there.move("h1", "h2")
    there.assert_only_on("h2")
    there.move("h2", "h1", "--quick")
    there.assert_only_on("h1")


def test_a_plan_changes_nothing(place: Callable[..., Place]) -> None:
    there = place()
    done = there.bascule("h1", "migrate", "guest", "h2", "--plan", "--json")
    plan = json.loads(done.stdout)
    assert done.returncode == 0
    assert plan["ok"]
    assert plan["forecast"]["total_s"] > 0
    there.assert_only_on("h1")
    assert there.lab.request("h1", "GET", "/v1/moves") == []


def test_the_power_button_ends_the_guest_after_a_move(place: Callable[..., Place]) -> None:
    there = place()
    there.move("h1", "h2")
    done = there.bascule("h2", "vm", "stop", "guest", "--timeout", "50s")
    assert done.returncode == 0, done.stderr
    assert there.state("h2") == "stopped"
    assert there.qemus("h2") == []
