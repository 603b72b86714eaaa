"""A VM's addresses on their way to its next host, and what is said for it there."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, cast

import pytest

from bascule.agent.arrival_watch import ArrivalWatch
from bascule.agent.machines import RunningVm
from bascule.agent.vm_network import MOST_QUESTIONS, VmNetwork
from bascule.errors import Failed
from bascule.network.address_book import Known
from bascule.network.frames import arp_request, gratuitous_arp, neighbour_solicitation, rarp, tagged
from bascule.vm.definition import Nic

FIRST, SECOND = "52:54:00:77:00:32", "52:54:00:77:01:32"
VLAN = ((0x8100, 20),)


class Cable:
    """Takes frames as a tap does."""

    def __init__(self, name: str = "bsctest0", *, works: bool = True) -> None:
        self.name, self.closed = name, False
        self.frames: list[bytes] = []
        self._works = works

    def inject(self, frame: bytes) -> None:
        if not self._works:
            raise Failed(f"cannot send a frame through tap {self.name}")
        self.frames.append(frame)


def network(*cables: Cable) -> VmNetwork:
    return VmNetwork(cast("Any", cables), [Nic("br0", FIRST), Nic("br1", SECOND)])


def rows(*known: Known, mac: str = FIRST) -> list[dict[str, Any]]:
    return [{"mac": mac, "known": [each.to_dict() for each in known]}]


def test_what_was_learned_is_announced_on_the_next_host() -> None:
    there, here = network(Cable(), Cable()), network(first := Cable(), second := Cable())
    there.take(rows(Known(ip_address("10.77.0.50"))) + rows(Known(ip_address("10.20.0.50"), VLAN), mac=SECOND))
    here.take(there.to_json())
    here.announce()
    assert first.frames == [rarp(FIRST), gratuitous_arp(FIRST, "10.77.0.50")]
    assert second.frames == [
        rarp(SECOND),
        tagged(rarp(SECOND), VLAN),
        tagged(gratuitous_arp(SECOND, "10.20.0.50"), VLAN),
    ]
    assert (here.announcements, here.announced_frames) == (1, 5)


@pytest.mark.parametrize("nonsense", [None, {}, "x", [None, 7], [{"mac": None}], [{"mac": FIRST, "known": "x"}]])
def test_what_makes_no_sense_leaves_rarp(nonsense: object) -> None:
    vm = network(cable := Cable())
    vm.take(nonsense)
    vm.announce()
    assert cable.frames == [rarp(FIRST)]


def test_a_closed_tap_is_passed_over_and_a_broken_one_said() -> None:
    vm = network(first := Cable(), second := Cable())
    first.closed = True
    vm.announce()
    assert (first.frames, second.frames) == ([], [rarp(SECOND)])
    with pytest.raises(Failed, match="bscbroken"):
        network(Cable("bscbroken", works=False)).announce()


def test_the_last_neighbours_are_asked_and_not_too_many() -> None:
    neighbours = tuple(ip_address("10.77.0.1") + number for number in range(3))
    vm = network(Cable())
    vm.take(
        rows(
            Known(ip_address("10.77.0.50"), VLAN, neighbours),
            Known(ip_address("fd77::50"), (), (ip_address("fd77::1"),)),
        )
    )
    (nic,) = vm.nics
    assert nic.questions() == [
        tagged(arp_request(FIRST, "10.77.0.50", "10.77.0.1"), VLAN),
        tagged(arp_request(FIRST, "10.77.0.50", "10.77.0.2"), VLAN),
        neighbour_solicitation(FIRST, "fd77::50", "fd77::1"),
    ]
    vm.take(rows(*(Known(ip_address("10.77.1.0") + number, (), neighbours) for number in range(20))))
    assert len(nic.questions()) == MOST_QUESTIONS


def test_a_vm_that_stands_still_is_announced_no_more_even_if_its_last_host_asks() -> None:
    """Where it moves back, that host gets frames for it again, and takes them for a sign that the network is late."""
    there = network(cable := Cable())
    nothing = cast("Any", None)
    vm = RunningVm(nothing, "tcg", nothing, network=there, arrival=ArrivalWatch("m1", there, nothing, 0))
    vm.arrival.announce_again()
    assert cable.frames
    cable.frames.clear()
    vm.silence()
    vm.arrival.announce_again()
    assert not cable.frames
