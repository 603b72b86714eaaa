"""The destination's agent takes frames in whatever order, however often they come; the test plays QEMU on real taps."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bascule.agent import frames_in
from bascule.agent.frames_in import FramesIn
from bascule.network.announcement import Announcement, announce_now
from bascule.network.frames import mac_bytes
from bascule.network.handover.parcel import Parcel

pytestmark = pytest.mark.lab

GUEST = "52:54:00:aa:00:50"
CLIENT = "52:54:00:aa:00:99"


def parcels(*numbers: int) -> list[Parcel]:
    head = mac_bytes(GUEST) + mac_bytes(CLIENT) + b"\x88\xb5"
    return [Parcel(0, number, bytes(10), (head + struct.pack("!I", number)).ljust(60, b".")) for number in numbers]


class Destination:
    """An agent's side of one tap. The host and the move are only needed to send frames back."""

    def __init__(self, net: Any, *, adopted: bool = False) -> None:
        self.handed: list[bytes] = []  # batches that went to the source
        self.handed_one = asyncio.Event()
        self.tap = net.tap(net.b, "bscdst")
        move = SimpleNamespace(id="m1", vm="guest")
        places = [(self.tap.name, GUEST)]
        host = SimpleNamespace(peers=SimpleNamespace(hand=self.hand))
        self.frames = net.b.run(FramesIn, host, move, "nowhere", [(self.tap, False)], places, adopted=adopted)

    async def hand(self, _peer: str, _path: str, batch: bytes, **_options: object) -> None:
        self.handed.append(batch)
        self.handed_one.set()

    def guest_gets(self) -> list[int]:
        return [struct.unpack_from("!I", queued.frame, 14)[0] for queued in self.tap.take_queued()]


@pytest.fixture
def there(quiet_net: Any) -> Iterator[Destination]:
    there = Destination(quiet_net)
    yield there
    there.frames.close()


def test_a_batch_that_was_faster_than_the_notice_does_not_cost_the_frames_of_the_notice(there: Destination) -> None:
    there.frames.carry(parcels(3, 4))
    there.frames.draw(parcels(1, 2))
    assert there.guest_gets() == [1, 2, 3, 4]


def test_what_came_with_the_notice_and_comes_again_is_given_once(there: Destination) -> None:
    there.frames.draw(parcels(1, 2))
    told = there.frames.carry(parcels(1, 2, 3), again=True)
    assert there.guest_gets() == [1, 2, 3]
    assert (told["carried"], told["lost"]) == (3, 0)


def test_a_notice_that_comes_once_the_vm_runs_takes_nothing_from_it(there: Destination) -> None:
    there.frames.carry(parcels(3))
    there.frames.run()
    there.frames.draw(parcels(1, 2))
    assert there.guest_gets() == [3, 1, 2]


def test_an_agent_that_has_restarted_takes_nothing_that_may_have_come_before(quiet_net: Any) -> None:
    """It does not know what its predecessor has put into the tap."""
    there = Destination(quiet_net, adopted=True)
    try:
        there.frames.draw()
        told = there.frames.carry(parcels(1, 2), again=True)
        assert (told["carried"], told["lost"]) == (0, 2)
        told = there.frames.carry(parcels(3))
        assert (told["carried"], told["lost"]) == (1, 2)
        assert there.guest_gets() == [3]
    finally:
        there.frames.close()


def test_without_a_notice_what_was_gathered_is_not_given_again(quiet_net: Any, there: Destination) -> None:
    """The source's agent died at the stop: its guest has got all the broadcasts of the copy's time."""
    client, at_tap = quiet_net.capture(quiet_net.client, "eth0"), quiet_net.capture(quiet_net.b, there.tap.name)
    broadcast = b"\xff" * 6 + mac_bytes(CLIENT) + b"\x88\xb5" + bytes(46)
    client.send(broadcast)
    at_tap.wait_for(broadcast)
    there.frames.run()
    assert there.guest_gets() == []


def test_a_frame_of_the_guest_that_is_flooded_here_late_does_not_draw_the_vm_away(quiet_net: Any) -> None:
    """The switch learns nothing, so that what the guest had sent on the source comes to this host as well."""
    net, there = quiet_net, Destination(quiet_net)
    for port in ("p-a", "p-b", "p-c"):
        net.switch.ip("link", "set", port, "type", "bridge_slave", "learning", "off")
    client, at_tap = net.capture(net.client, "eth0"), net.capture(net.b, there.tap.name)
    late = mac_bytes(CLIENT) + mac_bytes(GUEST) + b"\x88\xb5late".ljust(50, b".")
    try:
        there.frames.draw()
        there.frames.run()
        net.b.run(there.frames.hold_places)
        net.capture(net.a, "up0").send(late)
        client.wait_for(late)
        asked = parcels(7)[0].frame
        client.send(asked)
        at_tap.wait_for(asked)
        assert net.ports_of(net.b, GUEST) == [(there.tap.name, True)]
        net.b.run(there.frames.let_places_go)
        net.capture(net.a, "up0").send(late)
        net.wait_until(lambda: net.ports_of(net.b, GUEST) == [("up0", False)], "the bridge to learn again")
    finally:
        there.frames.close()


@pytest.mark.parametrize("told_to_run", [False, True], ids=["unrun", "QEMU was told to run and did not"])
async def test_the_tap_stays_until_the_other_host_has_announced_the_vm(
    there: Destination, quiet_net: Any, monkeypatch: pytest.MonkeyPatch, told_to_run: bool
) -> None:
    monkeypatch.setattr(frames_in, "QUIET_S", 0.01)
    monkeypatch.setattr(frames_in, "ELSEWHERE_WITHIN_S", 600)
    at_tap = quiet_net.capture(quiet_net.b, there.tap.name)
    announcement = b"\xff" * 6 + mac_bytes(GUEST) + b"\x80\x35" + bytes(46)
    uplink = quiet_net.capture(quiet_net.a, "up0")
    uplink.send(announcement)  # before the VM was drawn here: it says nothing
    at_tap.wait_for(announcement)
    there.frames.draw()
    announce_now([(there.tap, Announcement(GUEST))])
    quiet_net.wait_until(lambda: quiet_net.ports_of(quiet_net.a, GUEST) == [("up0", False)], "the network to follow")
    if told_to_run:
        there.frames.run()
    asked = parcels(7)[0].frame
    quiet_net.capture(quiet_net.client, "eth0").send(asked)
    at_tap.wait_for(asked)
    gone = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(there.frames.give_back(gone))
        await there.handed_one.wait()
        quiet = tasks.create_task(there.frames.until_quiet())
        await asyncio.sleep(0.2)  # twenty times as long as it would stay else
        assert not quiet.done()
        uplink.send(announcement.replace(b"\x80\x35", b"\x08\x06"))  # the guest's own, from before the stop
        await asyncio.sleep(0.2)
        assert not quiet.done()
        uplink.send(announcement)
        await quiet
        gone.set()
    assert len(there.handed) == 1, "what says that the VM is elsewhere is not sent there"
