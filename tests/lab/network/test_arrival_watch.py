"""After a move: the network is seen to follow, or it is said what was seen instead. Host A was the VM's, host B is."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, cast

import pytest

from bascule.agent.arrival_watch import ArrivalWatch
from bascule.agent.vm_network import VmNetwork
from bascule.network.address_book import Known
from bascule.network.arrivals import WireCount
from bascule.network.frames import (
    arp_request,
    gratuitous_arp,
    mac_bytes,
    neighbour_advertisement,
    neighbour_solicitation,
    rarp,
    tagged,
)
from bascule.network.tap import Tap
from bascule.vm.definition import Nic

pytestmark = pytest.mark.lab

GUEST, SECOND, CLIENT, LOCAL = ("52:54:00:aa:00:50", "52:54:00:aa:00:51", "52:54:00:aa:00:99", "52:54:00:aa:00:77")
IP, IP6 = "10.77.0.50", "fd77::50"
NEIGHBOUR, NEIGHBOUR6 = "10.77.0.99", "fd77::99"
VLAN, OUTER = ((0x8100, 20),), ((0x88A8, 100),)


def frame_to(mac: str, sender: str, text: bytes = b"x") -> bytes:
    return mac_bytes(mac) + mac_bytes(sender) + b"\x88\xb5" + text.ljust(46, b"\0")


@dataclass
class Moved:
    """A VM that has just moved to host B, with the taps of its NICs there."""

    net: Any
    taps: list[Tap]
    known: dict[str, list[Known]] = field(default_factory=dict)
    give_up_ms: float = 10_000
    watch: ArrivalWatch | None = None
    _run: Future[None] | None = None

    def begin(self) -> None:
        """Let the watch begin, as if the VM ran now."""
        macs = (GUEST, SECOND)[: len(self.taps)]
        network = VmNetwork(self.taps, [Nic("br0", mac) for mac in macs])
        network.take([{"mac": mac, "known": [each.to_dict() for each in self.known.get(mac, [])]} for mac in macs])
        self.net.b.run(lambda: asyncio.run(network.find_wires()))
        self.watch = ArrivalWatch(
            "m1",
            network,
            cast("Any", None),
            time.time_ns() // 1000,
            guest_can_announce=False,
            give_up_ms=self.give_up_ms,
        )
        self._run = self.net.b.start(lambda: asyncio.run(self.watch.run()))

    def announced(self, times: int) -> None:
        """Wait until it has announced so often."""
        self.net.wait_until(lambda: self.watch.network.announcements >= times, f"{times} announcements")

    def settled(self) -> dict[str, Any]:
        """Wait until something is known, and return it."""
        self.net.wait_until(lambda: self.watch.settled.is_set() or self._run.done(), "the watch's finding")
        return self.watch.finding()

    def end(self) -> dict[str, Any]:
        """Wait for its end."""
        self._run.result(30)
        return self.watch.finding()


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as ending:
        yield ending


@pytest.fixture
def moved(net: Any) -> Callable[..., Moved]:
    def build(nics: int = 1, **options: Any) -> Moved:
        return Moved(net, [net.tap(net.b, f"bscdst{number}") for number in range(nics)], **options)

    return build


def speaks_with_client(*vlans: tuple[int, int]) -> dict[str, list[Known]]:
    return {
        GUEST: [
            Known(ip_address(IP), vlans, (ip_address(NEIGHBOUR),)),
            Known(ip_address(IP6), vlans, (ip_address(NEIGHBOUR6),)),
        ]
    }


def learned_at_a(net: Any) -> Any:
    """The VM has spoken on host A: all bridges know it there."""
    there = net.tap(net.a, "bscsrc")
    there.inject(gratuitous_arp(GUEST, IP))
    net.wait_until(lambda: net.ports_of(net.b, GUEST) == [("up0", False)], "host B to know the VM on its uplink")
    net.wait_until(lambda: net.ports_of(net.switch, GUEST) == [("p-a", False)], "the switch to know the VM at A")
    return there


def test_a_silent_network_is_made_to_answer(net: Any, moved: Callable[..., Moved]):
    learned_at_a(net)
    net.client.ip("address", "add", f"{NEIGHBOUR}/24", "dev", "eth0")
    client = net.capture(net.client, "eth0")
    vm = moved(known=speaks_with_client())
    vm.begin()
    finding = vm.end()
    assert finding["state"] == "seen"
    assert 0 <= finding["verified_ms"] < 10_000
    assert finding["announcements"] == 5
    assert finding["announced_frames"] == 15
    assert [nic["addresses"] for nic in finding["nics"]] == [2]
    said = client.from_mac(GUEST)
    for frame in (rarp(GUEST), gratuitous_arp(GUEST, IP), neighbour_advertisement(GUEST, IP6)):
        assert said.count(frame) == 5
    assert arp_request(GUEST, IP, NEIGHBOUR) in said


def test_an_answer_over_ipv6_is_as_good(net: Any, moved: Callable[..., Moved]):
    net.client.ip("address", "add", f"{NEIGHBOUR6}/64", "dev", "eth0", "nodad")
    client = net.capture(net.client, "eth0")
    vm = moved(known=speaks_with_client())
    vm.begin()
    assert vm.settled()["state"] == "seen"
    client.wait_for(neighbour_solicitation(GUEST, IP6, NEIGHBOUR6))
    vm.end()


def test_traffic_is_seen_without_asking_for_it(net: Any, moved: Callable[..., Moved]):
    client = net.capture(net.client, "eth0")
    vm = moved()
    vm.begin()
    vm.announced(2)

    def sent() -> bool:
        client.send(frame_to(GUEST, CLIENT))
        return vm.watch.settled.is_set()

    net.wait_until(sent, "the watch to see the client's frames")
    assert vm.settled()["state"] == "seen"
    vm.end()


def test_nobody_speaks_and_nobody_is_known(net: Any, moved: Callable[..., Moved]):
    vm = moved(give_up_ms=100)
    vm.begin()
    finding = vm.end()
    assert (finding["state"], finding["verified_ms"]) == ("not seen", None)
    assert finding["why"] == "nobody sent it anything, and no neighbour is known that could be asked"
    assert net.ports_of(net.switch, GUEST) == [("p-b", False)]


def test_neighbours_that_do_not_answer_are_counted(moved: Callable[..., Moved]):
    vm = moved(give_up_ms=100, known=speaks_with_client())
    vm.begin()
    why = "nobody sent it anything, and none of 2 neighbours that it was seen speaking with answered"
    assert vm.end()["why"] == why


def test_frames_from_this_host_itself_prove_nothing(net: Any, moved: Callable[..., Moved]):
    local = net.tap(net.b, "bsclocal")
    vm = moved(give_up_ms=300)
    vm.begin()
    vm.announced(2)
    local.inject(frame_to(GUEST, LOCAL))
    finding = vm.end()
    assert (finding["state"], finding["why"]) == ("not seen", "only machines on this host have sent it anything")


def test_frames_carried_over_from_the_source_prove_nothing(net: Any, moved: Callable[..., Moved]):
    """They are sent out of the tap, with a client's address in them, as a frame from the network would be."""
    vm = moved(give_up_ms=300)
    at_tap = net.capture(net.b, "bscdst0")
    vm.begin()
    vm.announced(2)
    at_tap.send(frame_to(GUEST, CLIENT))
    finding = vm.end()
    assert (finding["state"], finding["why"]) == ("not seen", "only machines on this host have sent it anything")


def test_a_bridge_that_does_not_bring_them_to_the_tap_is_named(net: Any, moved: Callable[..., Moved]):
    client = net.capture(net.client, "eth0")
    vm = moved(give_up_ms=500)
    net.b.ip("link", "set", "up0", "type", "bridge_slave", "learning", "off")
    net.b.run(fixed_entry, GUEST, "up0")  # as an administrator may have put it there
    vm.begin()
    vm.announced(2)
    client.send(frame_to(GUEST, CLIENT))
    why = "frames for it reach this host, but bridge br0 does not bring them to its tap"
    assert vm.end()["why"] == why


def test_a_switch_that_learned_late_is_announced_to_again(net: Any, moved: Callable[..., Moved], ending: ExitStack):
    """The first announcements are lost: the switch forwards them, but was not learning just then."""
    learned_at_a(net)
    net.client.ip("address", "add", f"{NEIGHBOUR}/24", "dev", "eth0")
    net.switch.ip("link", "set", "p-b", "type", "bridge_slave", "learning", "off")
    counter = net.a.run(WireCount, [(GUEST, "up0")])
    ending.callback(counter.close)
    vm = moved(known=speaks_with_client())
    vm.begin()
    vm.announced(6)
    assert vm.watch.finding()["state"] == "watching"
    assert net.a.run(counter.take) > 0, "the client's answers still go to the source"
    net.switch.ip("link", "set", "p-b", "type", "bridge_slave", "learning", "on")
    finding = vm.end()
    assert finding["state"] == "seen"
    assert net.ports_of(net.switch, GUEST) == [("p-b", False)]
    net.a.run(counter.take)
    net.capture(net.client, "eth0").send(frame_to(GUEST, CLIENT))
    arrived = net.capture(net.b, "up0")
    net.capture(net.client, "eth0").send(last := frame_to(GUEST, CLIENT, b"last"))
    arrived.wait_for(last)
    assert net.a.run(counter.take) == 0


def test_a_link_that_comes_up_late_is_announced_to_again(net: Any, moved: Callable[..., Moved]):
    """The first announcements are lost on the way."""
    net.client.ip("address", "add", f"{NEIGHBOUR}/24", "dev", "eth0")
    net.switch.run(port_state, "p-b", 0)
    vm = moved(known=speaks_with_client())
    vm.begin()
    vm.announced(3)
    assert vm.watch.finding()["state"] == "watching"
    net.switch.run(port_state, "p-b", 3)
    finding = vm.end()
    assert finding["state"] == "seen"
    assert finding["announcements"] >= 4


def test_a_switch_that_never_learns_and_forgets_slowly_is_reported(net: Any, moved: Callable[..., Moved]):
    learned_at_a(net)
    net.client.ip("address", "add", f"{NEIGHBOUR}/24", "dev", "eth0")
    net.switch.ip("link", "set", "p-b", "type", "bridge_slave", "learning", "off")
    net.switch.ip("link", "set", "br0", "type", "bridge", "ageing_time", "60000")
    vm = moved(give_up_ms=1500, known=speaks_with_client())
    vm.begin()
    finding = vm.end()
    assert finding["state"] == "not seen"
    assert finding["why"].startswith("nobody sent it anything, and none of 2 neighbours")
    assert finding["announcements"] == 6


def test_each_nic_is_seen_for_itself(net: Any, moved: Callable[..., Moved]):
    client = net.capture(net.client, "eth0")
    vm = moved(nics=2, give_up_ms=1000)
    vm.begin()
    vm.announced(2)
    client.send(frame_to(GUEST, CLIENT))
    net.wait_until(lambda: vm.watch.finding()["nics"][0]["verified_ms"] is not None, "the first NIC's frame")
    finding = vm.end()
    assert (finding["state"], finding["verified_ms"]) == ("not seen", None)
    first, second = finding["nics"]
    assert (first["mac"], first["why"]) == (GUEST, "")
    assert (second["mac"], second["verified_ms"]) == (SECOND, None)
    assert second["why"].startswith("nobody sent it anything")
    assert {frame[6:12] for frame in client.read()} >= {mac_bytes(GUEST), mac_bytes(SECOND)}


def test_inside_vlans_of_the_guest_it_is_announced_asked_and_answered(net: Any, moved: Callable[..., Moved]):
    """Two tags: a capture shows the inner one in the frame, the kernel has taken the outer one out."""
    client = net.capture(net.client, "eth0")
    vm = moved(known=speaks_with_client(*OUTER, *VLAN))
    vm.begin()
    for frame in (rarp(GUEST), gratuitous_arp(GUEST, IP), neighbour_advertisement(GUEST, IP6)):
        client.wait_for(tagged(frame, VLAN))
    client.wait_for(rarp(GUEST))
    assert gratuitous_arp(GUEST, IP) not in client.read(), "its address is the guest's inside the VLAN only"
    client.wait_for(tagged(arp_request(GUEST, IP, NEIGHBOUR), VLAN))
    client.send(tagged(frame_to(GUEST, CLIENT), OUTER + VLAN))
    assert vm.end()["state"] == "seen"


def test_a_vm_that_moves_on_is_announced_no_more(net: Any, moved: Callable[..., Moved]):
    vm = moved()

    async def moves_on() -> dict[str, Any]:
        network = VmNetwork(vm.taps, [Nic("br0", GUEST)])
        watch = ArrivalWatch("m1", network, cast("Any", None), time.time_ns() // 1000, guest_can_announce=False)
        task = asyncio.ensure_future(watch.run())
        while network.announcements < 2:  # noqa: ASYNC110 - the kernel sends no notice
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.wait([task])
        said = network.announcements
        await asyncio.sleep(0.2)
        assert network.announcements == said
        watch.announce_again()
        assert network.announcements == said + 1
        watch.leave()
        watch.announce_again()  # the source has not heard yet that the VM leaves
        assert network.announcements == said + 1
        assert watch.settled.is_set()
        return watch.finding()

    finding = net.b.run(lambda: asyncio.run(moves_on()))
    assert finding["state"] == "not seen"
    assert finding["why"] == "it has stopped or moved on before anything was seen"


def test_what_we_say_for_the_guest_teaches_us_nothing(net: Any, moved: Callable[..., Moved]):
    """Else an address that it has given up would stay for as long as it is moved about."""
    vm = moved()
    known = [Known(ip_address(IP), age_s=3000), Known(ip_address(IP6), VLAN, age_s=2000)]

    async def announce() -> list[float]:
        network = VmNetwork(vm.taps, [Nic("br0", GUEST)])
        network.take([{"mac": GUEST, "known": [each.to_dict() for each in known]}])
        network.listen()
        network.announce()
        vm.taps[0].inject(gratuitous_arp(GUEST, "10.77.0.51"))  # the guest itself, the last to speak
        async with asyncio.timeout(20):
            while len(network.nics[0].known()) < 3:  # noqa: ASYNC110 - the kernel sends no notice
                await asyncio.sleep(0.01)
        network.close()
        return [each.age_s for each in network.nics[0].known()]

    assert [round(age_s, -2) for age_s in net.b.run(lambda: asyncio.run(announce()))] == [0, 2000, 3000]


def fixed_entry(mac: str, port: str) -> None:
    subprocess.run(["bridge", "fdb", "replace", mac, "dev", port, "master", "static", "sticky"], check=True)


def port_state(port: str, state: int) -> None:
    subprocess.run(["bridge", "link", "set", "dev", port, "state", f"{state}"], check=True)
