"""Frames are handed from one host's tap to the other's: real taps, bridges and a switch; the test plays the VM."""

from __future__ import annotations

import fcntl
import struct
import subprocess
import time
from contextlib import closing
from typing import Any

import pytest
from tests.lab.network.pair import (
    GUEST,
    SEGMENTED,
    TUN_F_CSUM,
    TUN_F_TSO4,
    TUNSETOFFLOAD,
    Guest,
    Pair,
    numbered,
    numbers,
    segments,
)

from bascule.errors import Failed
from bascule.network.announcement import Announcement, announce_now
from bascule.network.frames import mac_bytes
from bascule.network.handover.arriving import DECOY, ArrivingTap
from bascule.network.handover.leaving import LeavingQueue
from bascule.network.handover.parcel import Parcel
from bascule.network.handover.place import hold_place, let_place_go, set_places
from bascule.network.handover.watch import TapWatch
from bascule.network.tap import Tap

pytestmark = pytest.mark.lab

TUNSETVNETHDRSZ = 0x400454D8


@pytest.fixture
def net(quiet_net: Any) -> Any:
    """Every frame is counted here."""
    return quiet_net


def test_every_frame_reaches_the_guest_once_and_in_order(pair: Pair):
    pair.leaving.begin()
    pair.sends_to_source(5)
    assert pair.before.got_numbers() == [0, 1, 2, 3, 4]
    pair.leaving.look()
    pair.sends_to_source(3)  # which wait unread
    pair.stops()
    pair.sends_to_source(3)  # which come after the stop
    first = pair.leaving.take()
    assert [parcel.number for parcel in first] == sorted(parcel.number for parcel in first)
    pair.sends_to_source(2)  # under way before the network has learned
    pair.draws(first)
    pair.sends_to_destination(4)
    pair.arriving.carry(pair.leaving.take())
    pair.sends_to_destination(2)
    pair.arriving.run()
    assert pair.after.got_numbers() == list(range(5, 19))
    tally = pair.arriving.count()
    assert (tally.late, tally.lost) == (0, 0)


def test_a_batch_that_comes_again_is_given_once(pair: Pair):
    """It was not answered, so the source does not know that it has come."""
    pair.leaving.begin()
    pair.stops()
    pair.sends_to_source(2)
    first = pair.leaving.take()
    pair.draws(first)
    pair.arriving.carry(first)
    pair.sends_to_destination(1)
    pair.arriving.run()
    pair.arriving.carry(first)
    assert pair.after.got_numbers() == [0, 1, 2]
    assert pair.arriving.count().carried == 2


def test_a_batch_that_was_overtaken_is_put_before_the_other(pair: Pair):
    pair.leaving.begin()
    pair.stops()
    pair.sends_to_source(2)
    first = pair.leaving.take()
    pair.sends_to_source(2)
    pair.draws(pair.leaving.take())
    pair.arriving.carry(first)
    assert pair.after.got_numbers() == [0, 1, 2, 3]


def test_late_frames_go_to_the_end_once_the_vm_runs(pair: Pair):
    pair.leaving.begin()
    pair.stops()
    pair.sends_to_source(2)
    pair.draws([])
    pair.sends_to_destination(1)
    pair.arriving.run()
    pair.arriving.carry(pair.leaving.take())
    assert pair.after.got_numbers() == [2, 0, 1]
    assert pair.arriving.count().late >= 2


def test_a_frame_that_was_flooded_to_both_hosts_is_given_once(pair: Pair):
    """A bridge that does not learn sends every frame everywhere, and everybody does so with broadcasts."""
    pair.leaving.begin()
    pair.stops()
    for host, port in ((pair.net.switch, "p-a"), (pair.net.switch, "p-b"), (pair.net.b, "up0")):
        host.ip("link", "set", port, "type", "bridge_slave", "learning", "off", "flood", "on")
        host.ip("link", "set", "br0", "type", "bridge", "fdb_flush")
    pair.arriving.draw([])
    pair.client.send(numbered(100, "ff:ff:ff:ff:ff:ff"))
    for _ in range(2):
        pair.client.send(numbered(101))  # twice the same on purpose: both are for the guest
    expected = [100, 101, 101]
    pair.net.wait_until(lambda: numbers(pair.at_destination.read())[-3:] == expected, "frames at the destination")
    came: list[Parcel] = []

    def at_the_source() -> bool:
        came.extend(pair.leaving.take())
        return numbers([parcel.frame for parcel in came]) == expected

    pair.net.wait_until(at_the_source, "frames at the source")
    pair.arriving.carry(came)
    assert pair.after.got_numbers() == expected
    assert pair.arriving.count().seen_here >= 3


def test_qemu_finds_the_decoy_and_what_was_gathered_before_is_gone(pair: Pair):
    pair.client.send(numbered(7, "ff:ff:ff:ff:ff:ff"))
    pair.net.wait_until(lambda: pair.before.got_numbers() == [7], "a broadcast")
    pair.arriving.occupy()
    pair.client.send(numbered(8, "ff:ff:ff:ff:ff:ff"))
    pair.net.wait_until(lambda: pair.before.got_numbers() == [7, 8], "another")
    assert [queued.frame for queued in pair.here.take_queued(1)] == [DECOY.frame]  # as QEMU does, which reads no more
    pair.draws([Parcel(0, 1, bytes(10), numbered(9))])
    assert pair.after.got_numbers() == [9]


def test_a_full_tap_is_told(net: Any):
    tap = net.b.run(Tap.open, "bscdst", "br0", queue_frames=4)
    with tap:
        arriving = net.b.run(ArrivingTap, tap, 0)
        arriving.draw([Parcel(0, number, bytes(10), numbered(number)) for number in range(1, 7)])
        assert arriving.count().lost == 2
        assert Guest(tap).got_numbers() == [1, 2, 3, 4]
        arriving.close()


def test_what_finds_the_tap_full_while_the_vm_runs_is_told(quiet_net: Any):
    """QEMU's main loop may be kept from reading, when the copy begins for instance."""
    net = quiet_net
    tap = net.a.run(Tap.open, "bscsrc", "br0", queue_frames=4)
    with tap:
        leaving = net.a.run(LeavingQueue, tap, mac_bytes(GUEST), 0)
        client, arrived = net.capture(net.client, "eth0"), net.capture(net.a, "br0")
        for number in range(3):
            client.send(numbered(number, "ff:ff:ff:ff:ff:ff"))
        leaving.begin()
        for number in range(3, 9):
            client.send(numbered(number, "ff:ff:ff:ff:ff:ff"))
        arrived.wait_for(numbered(8, "ff:ff:ff:ff:ff:ff"))
        leaving.stopped(time.time_ns() // 1000)
        client.send(numbered(9, "ff:ff:ff:ff:ff:ff"))  # this one is seen all the same, and carried
        arrived.wait_for(numbered(9, "ff:ff:ff:ff:ff:ff"))
        assert leaving.overflowed == 5
        assert Guest(tap).got_numbers() == [0, 1, 2, 3]
        assert 9 in numbers([parcel.frame for parcel in leaving.take()])
        leaving.close()


def test_a_carried_frame_that_the_kernel_cuts_keeps_its_place_and_does_not_go_back(net: Any):
    """A tap takes no large frame before QEMU has loaded what the guest's driver can do: its pieces came from us."""
    with net.tap(net.b, "bscdst") as tap:
        arriving, neighbour = net.b.run(ArrivingTap, tap, 0), net.b.run(TapWatch, "bscdst", 0)
        header = struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16)
        arriving.draw([Parcel(0, 5, header, segments(54 + 3 * 1448))])
        assert neighbour.put(Parcel(0, 0, bytes(10), numbered(7)))
        arriving.carry([Parcel(0, 6, bytes(10), numbered(6))])
        assert arriving.tally.waited == 1
        queued = [queued.frame for queued in tap.take_queued()]
        assert [len(frame) for frame in queued[:3]] == [54 + 1448] * 3
        assert numbers(queued) == numbers(queued[3:]) == [6, 7]
        assert numbers([parcel.frame for parcel in arriving.take_back()]) == [7]
        arriving.close()
        neighbour.close()


def test_what_came_goes_back_if_qemu_was_told_to_run_and_did_not(net: Any):
    with net.tap(net.b, "bscdst") as tap:
        arriving, neighbour = net.b.run(ArrivingTap, tap, 0), net.b.run(TapWatch, "bscdst", 0)
        arriving.draw([])
        for number in (1, 2):
            assert neighbour.put(Parcel(0, 0, bytes(10), numbered(number)))
            arriving.run()
        assert numbers([parcel.frame for parcel in arriving.take_back()]) == [1, 2]
        arriving.ran()
        assert neighbour.put(Parcel(0, 0, bytes(10), numbered(3)))
        assert arriving.take_back() == []
        arriving.close()
        neighbour.close()


@pytest.mark.parametrize("header_bytes", [10, 12])
def test_a_frame_larger_than_the_mtu_keeps_its_header(net: Any, header_bytes: int):
    """As a guest on the same host sends it: neither cut nor summed up yet, which the virtio header says."""
    frame, header = segments(6000), SEGMENTED
    taps = [net.tap(net.a, "bscsrc"), net.tap(net.b, "bscdst")]
    for tap in taps:
        fcntl.ioctl(tap.fileno(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
        fcntl.ioctl(tap.fileno(), TUNSETVNETHDRSZ, struct.pack("i", header_bytes))
    leaving = net.a.run(LeavingQueue, taps[0], mac_bytes(GUEST), 0)
    arriving = net.b.run(ArrivingTap, taps[1], 0)
    leaving.begin()
    leaving.stopped(time.time_ns() // 1000)
    with closing(net.a.run(TapWatch, "bscsrc", 0)) as neighbour:
        assert neighbour.put(Parcel(0, 0, header, frame))
    (parcel,) = (parcel for parcel in leaving.take() if len(parcel.frame) == len(frame))
    assert (parcel.header, parcel.frame) == (header, frame)
    arriving.draw([parcel])
    (queued,) = (queued for queued in taps[1].take_queued() if len(queued.frame) == len(frame))
    assert (queued.header, queued.frame) == (header, frame)
    leaving.close()
    arriving.close()


@pytest.mark.parametrize("filtering", [False, True])
def test_a_vlan_tag_goes_along(net: Any, filtering: bool):
    """The kernel keeps the tag beside the frame; the tap's reader finds it in its place."""
    there, here = net.tap(net.a, "bscsrc"), net.tap(net.b, "bscdst")
    if filtering:
        for host, tap in ((net.a, "bscsrc"), (net.b, "bscdst")):
            try:
                host.ip("link", "set", "br0", "type", "bridge", "vlan_filtering", "1")
            except subprocess.CalledProcessError:
                pytest.skip("this kernel's bridges do not filter VLANs")
            for port in (tap, "up0"):
                host.run(_vlan, port)
    client = net.capture(net.client, "eth0")
    leaving = net.a.run(LeavingQueue, there, mac_bytes(GUEST), 0)
    arriving = net.b.run(ArrivingTap, here, 0)
    leaving.begin()
    leaving.stopped(time.time_ns() // 1000)
    plain = numbered(1, "ff:ff:ff:ff:ff:ff")
    tagged = plain[:12] + bytes.fromhex("81000005") + plain[12:]
    client.send(tagged)
    came: list[Parcel] = []
    net.wait_until(lambda: came.extend(leaving.take()) or tagged in [each.frame for each in came], "the frame")
    arriving.draw(came)
    assert tagged in Guest(here).runs()
    leaving.close()
    arriving.close()


def _vlan(port: str) -> None:
    subprocess.run(["bridge", "vlan", "add", "dev", port, "vid", "5"], check=True)


def test_the_watch_tells_when_a_frame_came(net: Any):
    net.tap(net.a, "bscsrc")
    with closing(net.a.run(TapWatch, "bscsrc", 0)) as watch:
        client = net.capture(net.client, "eth0")
        client.send(numbered(0, "ff:ff:ff:ff:ff:ff"))
        watch.begin()
        before_us = time.time_ns() // 1000
        client.send(numbered(1, "ff:ff:ff:ff:ff:ff"))
        seen: list[Any] = []
        net.wait_until(lambda: seen.extend(watch.read()) or seen, "a frame")
        assert 1 in numbers([each.parcel.frame for each in seen])
        assert before_us <= seen[-1].at_us <= time.time_ns() // 1000


def switch_learns(net: Any, learns: bool) -> None:
    for port in ("p-a", "p-b", "p-c"):
        net.switch.ip("link", "set", port, "type", "bridge_slave", "learning", "on" if learns else "off")
    net.switch.ip("link", "set", "br0", "type", "bridge", "fdb_flush")


@pytest.mark.parametrize("learns", [True, False], ids=["a switch that learns", "a switch that does not learn"])
def test_a_frame_of_the_guest_that_comes_after_the_announcement_misleads_nobody(pair: Pair, learns: bool):
    """It waited in the source's uplink when the VM stopped, and tells everybody but the source that the VM is there."""
    switch_learns(pair.net, learns)
    pair.net.a.run(hold_place, pair.there.name, GUEST)
    pair.leaving.begin()
    pair.stops()
    pair.arriving.draw([])
    pair.announces()
    straggler = mac_bytes("ff:ff:ff:ff:ff:ff") + mac_bytes(GUEST) + b"\x88\xb5late".ljust(50, b".")
    pair.net.capture(pair.net.a, "up0").send(straggler)  # past the source's bridge
    pair.client.wait_for(straggler)
    pair.net.wait_until(lambda: pair.net.ports_of(pair.net.b, GUEST) == [("up0", False)], "the network to be misled")
    pair.sends(3)
    pair.net.wait_until(
        lambda: 2 in numbers(pair.at_source.read()) + numbers(pair.at_destination.read()), "a frame at either host"
    )
    pair.arriving.carry(pair.leaving.take())
    assert pair.after.got_numbers() == [0, 1, 2]


def test_a_place_that_is_let_go_follows_the_guest_again(pair: Pair):
    place = pair.there.name, GUEST
    for _ in range(2):
        pair.net.a.run(hold_place, *place)
    pair.announces()
    assert pair.net.ports_of(pair.net.a, GUEST) == [(pair.there.name, True)]
    for _ in range(2):
        pair.net.a.run(let_place_go, *place)
        assert pair.net.ports_of(pair.net.a, GUEST) == []
    announce_now([(pair.here, Announcement(GUEST))])
    pair.net.wait_until(lambda: pair.net.ports_of(pair.net.a, GUEST) == [("up0", False)], "the network to follow")


def test_a_place_on_a_tap_that_is_gone_is_an_error_and_the_others_are_held(pair: Pair):
    with pytest.raises(Failed, match="bscnone"):
        pair.net.a.run(set_places, hold_place, [("bscnone", GUEST), (pair.there.name, GUEST)])
    pair.announces()
    assert pair.net.ports_of(pair.net.a, GUEST) == [(pair.there.name, True)]
