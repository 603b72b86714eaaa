"""The kernel's vhost-net serves a guest's NIC on hosts that have it. `bench/emulated-host` is one, on any machine.

That nothing is lost then, the tests of the hand-over say: where there is vhost-net, they are served by it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.lab.moves.conftest import Place

from bascule.network.vhost import VHOST_NET, has_vhost

pytestmark = pytest.mark.lab
HAS_IT = VHOST_NET.exists()


def served_by_vhost(there: Place, host: str) -> bool:
    vm: dict[str, Any] = json.loads(there.bascule(host, "vm", "show", "guest", "--json").stdout)
    return has_vhost(vm["pid"])


@contextmanager
def in_its_place(other: Path | None) -> Iterator[None]:
    """There is none, or what is there is something else."""
    aside = VHOST_NET.with_name("vhost-net-aside")
    if HAS_IT:
        VHOST_NET.rename(aside)
    try:
        if other is not None:
            VHOST_NET.symlink_to(other)
        yield
    finally:
        VHOST_NET.unlink(missing_ok=True)
        if HAS_IT:
            aside.rename(VHOST_NET)


def test_a_nic_is_served_by_it_where_the_host_has_it(place: Callable[..., Place]) -> None:
    there = place()
    assert served_by_vhost(there, "h1") is HAS_IT
    there.move("h1", "h2", "--max-blackout", "2s")
    assert served_by_vhost(there, "h2") is HAS_IT


def test_a_nic_that_may_not_be_is_served_by_qemu(place: Callable[..., Place]) -> None:
    there = place()
    there.bascule("h1", "vm", "stop", "guest", "--force")
    there.bascule("h1", "vm", "delete", "guest")
    there.guest.start(there.lab, "h1", "vhost = false")
    assert not served_by_vhost(there, "h1")
    there.move("h1", "h2", "--max-blackout", "2s")
    assert not served_by_vhost(there, "h2")


@pytest.mark.skipif(not HAS_IT, reason=f"this kernel has no {VHOST_NET}")
def test_a_vm_moves_to_a_host_without_and_back(place: Callable[..., Place]) -> None:
    """Its guest sees the same card, so that it loads there."""
    there = place()
    with in_its_place(None):
        there.move("h1", "h2", "--max-blackout", "2s")
    assert not served_by_vhost(there, "h2")
    there.move("h2", "h1", "--max-blackout", "2s")
    assert served_by_vhost(there, "h1")
    assert there.guest.status(there.lab)["corrupt_blocks"] == 0


def test_where_qemu_cannot_use_it_qemu_serves_the_nic(place: Callable[..., Place]) -> None:
    """It ends when the kernel says no, for want of processes for instance; here because it is no vhost-net."""
    with in_its_place(Path("/dev/null")):
        there = place()
        there.move("h1", "h2", "--max-blackout", "2s")
        assert not served_by_vhost(there, "h2")
        for host in ("h1", "h2"):
            assert "QEMU cannot use vhost-net" in there.lab.host(host).places.log.read_text()
