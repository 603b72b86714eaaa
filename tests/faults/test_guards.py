"""A second copy is seen by all who watch, and prevented by the image's lock where there is a disk."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest

from bascule.lab.faults.ground import Ground
from bascule.lab.faults.network_watch import NetworkWatch
from bascule.lab.faults.qemu_watch import QemuWatch, WatchedQemu, doubled
from bascule.lab.faults.watched_qemu import watched_qemu
from bascule.lab.guest_vm import GuestVm
from bascule.lab.laboratory import Lab
from bascule.lab.names import namespace
from bascule.lab.places import CACHE
from bascule.storage.image_lock import image_use

pytestmark = pytest.mark.lab

PATIENCE_S = 60.0


def wait(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {PATIENCE_S:g} s for {what}")


def two_complete_copies(lab: Lab, watch: QemuWatch, vm: str) -> tuple[WatchedQemu, WatchedQemu]:
    """Move a VM from h1 to h2 and kill both agents in the copying: QEMU goes on alone until all of it was sent."""
    lab.popen("h1", ["bascule", "migrate", vm, "h2"], stdout=DEVNULL, stderr=DEVNULL)

    def phase() -> Any:
        moves = lab.request("h1", "GET", "/v1/moves")
        return moves and moves[0]["phase"] == "copying"

    wait(phase, "the copying")
    (source,), (destination,) = watch.of("h1"), watch.of("h2")
    lab.kill_agent("h2")
    lab.kill_agent("h1")

    def sent() -> bool:
        statuses = [watch.ask(qemu, "query-status")["status"] for qemu in (source, destination)]
        return statuses == ["postmigrate", "paused"]

    wait(sent, "the end of the copy")
    return source, destination


def test_the_image_is_activated_late_and_by_one(names: Callable[[], str]) -> None:
    """Between the end of the copy and the run nobody holds the image's lock; then one QEMU does, and only one can."""
    with Ground(names()) as ground:
        source, destination = two_complete_copies(ground.lab, ground.watch, ground.guest.name)
        assert not image_use(ground.disk).written, "a destination that does not run yet holds the image"
        ground.watch.ask(destination, "cont")
        assert [holder.pid for holder in image_use(ground.disk).holders] == [destination.pid]
        with pytest.raises(OSError, match='Failed to get "write" lock'):
            ground.watch.ask(source, "cont")
        assert not source.runs
        assert doubled([source, destination], 0, time.time()) == []
        assert ground.network.forks() == []


@contextlib.contextmanager
def diskless(name: str) -> Iterator[tuple[Lab, QemuWatch, NetworkWatch]]:
    """A lab with a guest that no image's lock guards."""
    guest = GuestVm(memory_mib=128, dirty_mib=8, rate_mb_s=20, sequence=True)
    guest.build_image()
    with Lab(name) as lab:
        lab.up(hosts=2, agent_settings={"qemu_binary": watched_qemu(CACHE)})
        folders = {host.name: host.places.run / "vms" for host in lab.hosts}
        with QemuWatch(folders) as watch, NetworkWatch(namespace(name, "client")) as network:
            guest.start(lab, "h1")
            wait(lambda: network.heard, "a record on the network")
            yield lab, watch, network


def test_two_copies_at_once_are_seen(names: Callable[[], str]) -> None:
    """What the fault suite looks for, brought about by force: QEMU's times overlap, and the guest's numbers fork."""
    with diskless(names()) as (lab, watch, network):
        source, destination = two_complete_copies(lab, watch, "guest")
        assert doubled([source, destination], 0, time.time()) == []
        assert network.forks() == []
        watch.ask(destination, "cont")
        watch.ask(source, "cont")
        wait(network.forks, "a fork on the network")
        assert "ran at once" in doubled([source, destination], 0, time.time())[0]


def test_a_vm_whose_image_another_host_holds_does_not_start(names: Callable[[], str]) -> None:
    with Ground(names()) as ground:
        lab, disk = ground.lab, Path(ground.disk)
        other = GuestVm(name="other", address="10.77.0.51", memory_mib=128, dirty_mib=0, rate_mb_s=0)
        toml = other.definition(lab, f'[[disks]]\npath = "{disk}"\nformat = "raw"')
        lab.request("h2", "POST", "/v1/vms", {"toml": toml, "origin": "test"})
        done = lab.run("h2", ["bascule", "vm", "start", "other"])
        assert done.returncode == 1, done.stdout + done.stderr
        (holder,) = ground.watch.of("h1")
        assert f"written by process {holder.pid}" in " ".join(done.stderr.split())
        assert "never start it twice" in done.stderr
        lab.request("h2", "DELETE", "/v1/vms/other")
        assert ground.tidiness.leftovers({"h1"}) == []
