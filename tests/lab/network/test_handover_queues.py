"""Handing over the frames of a tap with several queues, each read by itself: a flow stays in one, and in its order."""

from __future__ import annotations

import os
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.lab.network.pair import shows

from bascule.network.announcement import Announcement, announce_now
from bascule.network.frames import internet_checksum, mac_bytes
from bascule.network.handover.arriving import DECOY, ArrivingTap
from bascule.network.handover.leaving import LeavingQueue, leaving_queues
from bascule.network.handover.parcel import Parcel
from bascule.network.handover.watch import TapWatch
from bascule.network.tap import VIRTIO_HEADER_BYTES, Tap

pytestmark = pytest.mark.lab

GUEST = "52:54:00:aa:00:50"
CLIENT = "52:54:00:aa:00:99"
QUEUES = 4
FLOWS = 16


def flow_frame(flow: int, number: int) -> bytes:
    """A UDP datagram from a port of its own; its checksum is left out, as UDP over IPv4 may."""
    payload = b"N" + struct.pack("!I", number)
    udp = struct.pack("!HHHH", 5000 + flow, 7, 8 + len(payload), 0) + payload
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(udp), number & 0xFFFF, 0, 64, 17, 0, 0x0A4D0001, 0x0A4D0032)
    ip = ip[:10] + internet_checksum(ip).to_bytes(2) + ip[12:]  # a bridge may look at it
    return (mac_bytes(GUEST) + mac_bytes(CLIENT) + b"\x08\x00" + ip + udp).ljust(60, b"\0")


def told(frame: bytes) -> tuple[int, int] | None:
    """Flow and number of one of ours."""
    if frame[12:14] != b"\x08\x00" or frame[42:43] != b"N":
        return None
    return struct.unpack("!H", frame[34:36])[0] - 5000, struct.unpack("!I", frame[43:47])[0]


def flows(frames: list[bytes]) -> dict[int, list[int]]:
    """The numbers that came of each flow, in order."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    for frame in frames:
        if (what := told(frame)) is not None:
            found[what[0]].append(what[1])
    return dict(found)


def read(tap: Tap, queue: int, most: int) -> list[Parcel]:
    """Read one queue as QEMU does."""
    got = []
    for _ in range(most):
        try:
            frame = os.read(tap.descriptors()[queue], 1 << 17)
        except BlockingIOError:
            break
        got.append(Parcel(0, 0, frame[:VIRTIO_HEADER_BYTES], frame[tap.header_bytes() :]))
    return got


class Crossing:
    """A VM with a tap of several queues on both hosts, and a client that asks by many flows."""

    def __init__(self, net: Any, *, vhost: bool = False) -> None:
        self.net = net
        self.there = net.tap(net.a, "bscsrc", queues=QUEUES)
        self.here = net.tap(net.b, "bscdst", queues=QUEUES)
        self.client = net.capture(net.client, "eth0")
        self.at_source = net.capture(net.a, "bscsrc")
        self.queues: list[LeavingQueue] = net.a.run(leaving_queues, self.there, mac_bytes(GUEST), 0, vhost=vhost)
        self.arriving: ArrivingTap = net.b.run(ArrivingTap, self.here, 0)
        self.sent = 0
        self.given: list[bytes] = []
        announce_now([(self.there, Announcement(GUEST))])
        net.wait_until(lambda: net.ports_of(net.b, GUEST), "the network to know the guest's place")
        for queue in self.queues:
            queue.begin()

    def sends(self, rounds: int) -> None:
        for _ in range(rounds):
            for flow in range(FLOWS):
                self.client.send(flow_frame(flow, self.sent))
            self.sent += 1
        last = (FLOWS - 1, self.sent - 1)
        self.net.wait_until(lambda: last in map(told, self.at_source.read()), f"round {last[1]}")

    def gives(self, queue: int, most: int) -> list[Parcel]:
        """QEMU reads so many of a queue and gives them to its guest."""
        got = read(self.there, queue, most)
        self.given += [parcel.frame for parcel in got]
        return got

    def gives_all(self) -> None:
        for number, queue in enumerate(self.queues):
            self.gives(number, 1 << 20)
            queue.look()

    def stops(self) -> None:
        for queue in self.queues:
            queue.stopped(time.time_ns() // 1000)

    def takes(self) -> list[Parcel]:
        return [parcel for queue in self.queues for parcel in queue.take()]

    def arrives(self, parcels: list[Parcel]) -> list[bytes]:
        self.arriving.draw(parcels)
        return [queued.frame for queued in self.here.take_queued()]

    def close(self) -> None:
        for queue in self.queues:
            queue.close()
        self.arriving.close()


@pytest.fixture
def crossing(quiet_net: Any) -> Iterator[Crossing]:
    crossing = Crossing(quiet_net)
    yield crossing
    crossing.close()


def everything(crossing: Crossing) -> dict[int, list[int]]:
    return {flow: list(range(crossing.sent)) for flow in range(FLOWS)}


def test_the_kernel_spreads_flows_over_the_queues(crossing: Crossing) -> None:
    crossing.sends(1)
    lengths = [len(read(crossing.there, queue, 100)) for queue in range(QUEUES)]
    assert sum(length > 0 for length in lengths) > 1, lengths


def test_each_queue_tells_by_the_frame_that_its_guest_got_last(crossing: Crossing) -> None:
    """QEMU has read one more of each, and has not given it to the guest."""
    crossing.sends(3)
    crossing.gives_all()
    crossing.sends(5)
    for number, queue in enumerate(crossing.queues):
        queue.look()
        if got := crossing.gives(number, number + 2):
            shows(queue, got[-1])
        read(crossing.there, number, 1)
    crossing.stops()
    crossing.sends(2)
    parcels = crossing.takes()
    assert len({parcel.number for parcel in parcels}) == len(parcels)
    assert flows(crossing.given + [parcel.frame for parcel in parcels]) == everything(crossing)
    arrived = crossing.arrives(parcels)
    assert flows(crossing.given + arrived) == everything(crossing)


def test_without_that_frame_the_used_index_of_each_queue_tells(crossing: Crossing) -> None:
    used = [0] * QUEUES
    for number, queue in enumerate(crossing.queues):
        queue.used = lambda number=number: used[number]
    crossing.sends(4)
    for number in range(QUEUES):
        used[number] += len(crossing.gives(number, 1 << 20))
    for queue in crossing.queues:
        queue.look()
    crossing.sends(5)
    for number in range(QUEUES):
        used[number] += len(crossing.gives(number, 3))
        read(crossing.there, number, 1)
    crossing.stops()
    assert flows(crossing.given + [parcel.frame for parcel in crossing.takes()]) == everything(crossing)


def test_a_frame_that_comes_during_a_look_does_not_mislead(crossing: Crossing) -> None:
    """It is read and given between two of the questions: counted as one more than came, it would come twice."""
    used = [0] * QUEUES
    for number, queue in enumerate(crossing.queues):
        queue.used = lambda number=number: used[number]
        count = queue._counters.read

        def meanwhile(number: int = number, count: Any = count) -> Any:
            counts = count()
            if crossing.sent < 4:
                crossing.sends(1)
                used[number] += len(crossing.gives(number, 1 << 20))
            return counts

        queue._counters.read = meanwhile
        queue.look()
        queue._counters.read = count
    for number in range(QUEUES):
        used[number] += len(crossing.gives(number, 1 << 20))
    crossing.sends(1)
    for number in range(QUEUES):
        used[number] += len(crossing.gives(number, 2))
    crossing.stops()
    got = flows(crossing.given + [parcel.frame for parcel in crossing.takes()])
    assert all(len(numbers) == len(set(numbers)) for numbers in got.values()), got


def test_frames_that_found_the_queue_full_make_nothing_come_twice(crossing: Crossing) -> None:
    queue = crossing.queues[0]
    queue.look()
    queue.reckoning.nothing_waits(0)
    queue.reckoning.used_at(0, 100)
    count = queue._counters.read
    queue._counters.read = lambda: count()._replace(dropped=count().dropped + 5)
    queue.look()
    assert queue.reckoning.filled is None


def test_what_is_not_known_counts_as_delivered(crossing: Crossing) -> None:
    """Nothing is given twice."""
    crossing.sends(4)
    for number in range(QUEUES):
        crossing.gives(number, 2)
    crossing.stops()
    crossing.sends(1)
    carried = flows([parcel.frame for parcel in crossing.takes()])
    assert carried == {flow: [4] for flow in range(FLOWS)}
    assert any(queue.is_unsure for queue in crossing.queues)


def test_what_finds_a_queue_full_is_counted_once(quiet_net: Any) -> None:
    tap = quiet_net.a.run(Tap.open, "bscsrc", "br0", queue_frames=4, queues=QUEUES)
    quiet_net.taps.append(tap)
    queues = quiet_net.a.run(leaving_queues, tap, mac_bytes(GUEST), 0)
    for queue in queues:
        queue.begin()
    announce_now([(tap, Announcement(GUEST))])
    quiet_net.wait_until(lambda: quiet_net.ports_of(quiet_net.b, GUEST), "the network to know the guest's place")
    client, at_source = quiet_net.capture(quiet_net.client, "eth0"), quiet_net.capture(quiet_net.a, "bscsrc")
    for number in range(50):
        client.send(flow_frame(0, number))
    quiet_net.wait_until(lambda: (0, 49) in map(told, at_source.read()), "the last frame")
    for queue in queues:
        queue.look()
        queue.stopped(time.time_ns() // 1000)
    waited = len(tap.take_queued())
    assert 0 < waited < 50
    assert sum(queue.overflowed for queue in queues) == 50 - waited
    for queue in queues:
        queue.close()


def test_what_is_put_in_by_one_queue_is_not_seen_by_another(crossing: Crossing) -> None:
    for flow in range(FLOWS):
        assert crossing.queues[0].watch.put(Parcel(0, 0, bytes(VIRTIO_HEADER_BYTES), flow_frame(flow, 0)))
    for queue in crossing.queues:
        queue.look()
    assert [queue.reckoning.seen for queue in crossing.queues] == [0] * QUEUES


def test_the_decoy_waits_in_the_first_queue(quiet_net: Any) -> None:
    """QEMU takes the others off when it starts; then it reads one frame of the first."""
    tap = quiet_net.tap(quiet_net.b, "bscdst", queues=QUEUES)
    arriving = quiet_net.b.run(ArrivingTap, tap, 0)
    arriving.occupy()
    waiting = [[parcel.frame for parcel in read(tap, queue, 100)] for queue in range(QUEUES)]
    assert waiting == [[DECOY.frame], [], [], []]
    arriving.close()


def test_queues_keep_their_numbers_while_only_the_first_is_used(crossing: Crossing) -> None:
    with crossing.there.first_queue_only():
        crossing.sends(1)
    assert [len(read(crossing.there, queue, 100)) for queue in range(QUEUES)] == [FLOWS, 0, 0, 0]
    crossing.sends(3)
    for number, queue in enumerate(crossing.queues):
        queue.look()
        waiting = {told(parcel.frame) for parcel in read(crossing.there, number, 100)}
        assert waiting <= {told(parcel.frame) for _, parcel in queue._kept}


def test_a_flow_is_in_one_queue_and_in_its_order_when_the_vm_runs(quiet_net: Any) -> None:
    """QEMU takes the other queues into use when it has loaded what the guest's driver has set up."""
    tap = quiet_net.tap(quiet_net.b, "bscdst", queues=QUEUES)
    arriving = quiet_net.b.run(ArrivingTap, tap, 0)
    header = bytes(VIRTIO_HEADER_BYTES)
    with tap.first_queue_only():
        carried = [
            Parcel(0, 1 + flow + number * FLOWS, header, flow_frame(flow, number))
            for number in range(3)
            for flow in range(FLOWS)
        ]
        arriving.draw(carried)
    with closing(quiet_net.b.run(TapWatch, "bscdst", 0)) as neighbour:
        for number in range(3, 6):
            for flow in range(FLOWS):
                assert neighbour.put(Parcel(0, 0, header, flow_frame(flow, number)))
    arriving.run()
    found = [flows([parcel.frame for parcel in read(tap, queue, 1000)]) for queue in range(QUEUES)]
    assert sum(bool(in_queue) for in_queue in found) > 1
    assert sorted(flow for in_queue in found for flow in in_queue) == list(range(FLOWS))
    assert all(numbers == list(range(6)) for in_queue in found for numbers in in_queue.values()), found
    assert arriving.count().waited == 3 * FLOWS
    arriving.close()


class Arriving:
    """A VM of several queues about to run: it has loaded, so that all of them are in use."""

    def __init__(self, net: Any, *, vhost: bool) -> None:
        self.tap = net.tap(net.b, "bscdst", queues=QUEUES)
        self.arriving = net.b.run(lambda: ArrivingTap(self.tap, 0, vhost=vhost))
        self.neighbour = net.b.run(TapWatch, "bscdst", 0)
        self.arriving.draw([])
        self.sent = 0

    def comes(self, rounds: int) -> None:
        for _ in range(rounds):
            for flow in range(FLOWS):
                assert self.neighbour.put(Parcel(0, 0, bytes(VIRTIO_HEADER_BYTES), flow_frame(flow, self.sent)))
            self.sent += 1

    def takes_one_of_each(self, first: int = 1) -> list[bytes]:
        """QEMU does, of each queue in which it has had none yet."""
        return [parcel.frame for queue in range(first, QUEUES) for parcel in read(self.tap, queue, 1)]

    def rest(self) -> list[bytes]:
        return [queued.frame for queued in self.tap.take_queued()]

    def close(self) -> None:
        self.neighbour.close()
        self.arriving.close()


@pytest.mark.parametrize("vhost", [True, False])
def test_what_qemu_has_taken_of_the_other_queues_is_put_in_again_if_it_throws_it_away(
    quiet_net: Any, vhost: bool
) -> None:
    """It does when the kernel's vhost-net serves the guest; else it gives it to it."""
    with closing(Arriving(quiet_net, vhost=vhost)) as vm:
        vm.comes(3)
        vm.arriving.look()
        taken = vm.takes_one_of_each()
        assert 0 < len(taken) < QUEUES  # by chance a queue may have no flow
        vm.arriving.run()
        given = vm.rest() + ([] if vhost else taken)
        assert {flow: sorted(got) for flow, got in flows(given).items()} == {flow: [0, 1, 2] for flow in range(FLOWS)}
        if vhost:
            assert flows(given) == {flow: [0, 1, 2] for flow in range(FLOWS)}


@pytest.mark.parametrize("comes_before", [True, False])
def test_once_it_is_about_to_run_qemu_finds_decoys_in_the_other_queues(quiet_net: Any, comes_before: bool) -> None:
    with closing(Arriving(quiet_net, vhost=True)) as vm:
        if comes_before:
            vm.comes(2)
        vm.arriving.run()
        vm.comes(2)
        taken = vm.takes_one_of_each()
        assert len(taken) == QUEUES - 1
        assert not flows(taken)
        assert flows(vm.rest()) == {flow: list(range(vm.sent)) for flow in range(FLOWS)}


def test_the_decoys_stay_on_their_host(quiet_net: Any) -> None:
    with closing(Arriving(quiet_net, vhost=True)) as vm:
        uplink = quiet_net.capture(quiet_net.b, "up0")
        vm.arriving.run()
        announce_now([(vm.tap, Announcement(GUEST))])
        for frame in Announcement(GUEST).frames():
            uplink.wait_for(frame)
        assert not [frame for frame in uplink.read() if frame[:6] == DECOY.frame[2:8]]


def test_with_vhost_net_what_waits_in_its_hands_may_be_the_one_that_the_guest_got_last(quiet_net: Any) -> None:
    """It takes up to 64 frames out of a queue before it gives them to the guest."""
    with closing(Crossing(quiet_net, vhost=True)) as crossing:
        crossing.sends(3)
        last = {}
        for number, queue in enumerate(crossing.queues):
            got = read(crossing.there, number, 100)
            crossing.given += [parcel.frame for parcel in got[: len(got) // 2]]
            queue.look()
            if got:
                last[number] = got[len(got) // 2 - 1] if len(got) > 1 else None
        for number, queue in enumerate(crossing.queues):
            if (shown := last.get(number)) is not None:
                shows(queue, shown)
        crossing.stops()
        got = flows(crossing.given + [parcel.frame for parcel in crossing.takes()])
        assert got == everything(crossing)
        assert not any(queue.is_unsure for queue in crossing.queues)
        assert all(len(numbers) == len(set(numbers)) for numbers in got.values())


def test_a_queue_that_the_guest_does_not_use_holds_nothing(crossing: Crossing) -> None:
    tap = crossing.there
    with tap.first_queue_only():
        crossing.sends(2)
        assert flows([queued.frame for queued in tap.take_queued()]) == everything(crossing)
