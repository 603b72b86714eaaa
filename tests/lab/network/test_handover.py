"""Frames are handed from one host's tap to the other's: real taps, bridges and a switch; the test plays the VM."""

from __future__ import annotations

import fcntl
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from bascule.errors import Failed
from bascule.network.announcement import Announcement, announce_now
from bascule.network.frames import mac_bytes
from bascule.network.handover.arriving import DECOY, ArrivingTap
from bascule.network.handover.counters import NLM_F_REQUEST, RTM_GETSTATS, Counts, TapCounters
from bascule.network.handover.leaving import LeavingQueue
from bascule.network.handover.parcel import Parcel
from bascule.network.handover.place import hold_place, let_place_go, set_places
from bascule.network.handover.watch import TapWatch
from bascule.network.tap import Tap

pytestmark = pytest.mark.lab

GUEST = "52:54:00:aa:00:50"
CLIENT = "52:54:00:aa:00:99"
TUNSETVNETHDRSZ = 0x400454D8
TUNSETOFFLOAD = 0x400454D0
TUN_F_CSUM, TUN_F_TSO4 = 1, 2


# A virtio header: needs a checksum; TCP over IPv4 in pieces of 1448 bytes.
SEGMENTED = struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16)


def numbered(number: int, to: str = GUEST, length: int = 60) -> bytes:
    head = mac_bytes(to) + mac_bytes(CLIENT) + b"\x88\xb5" + b"N" + struct.pack("!I", number)
    return head.ljust(length, b".")


def numbers(frames: list[bytes]) -> list[int]:
    return [struct.unpack("!I", frame[15:19])[0] for frame in frames if frame[12:15] == b"\x88\xb5N"]


class Guest:
    """Reads its tap as QEMU does."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.got: list[bytes] = []

    def runs(self) -> list[bytes]:
        self.got += [queued.frame for queued in self.tap.take_queued()]
        return self.got

    def got_numbers(self) -> list[int]:
        self.runs()
        return numbers(self.got)


class Pair:
    """A source, a destination, and a client that counts its frames."""

    def __init__(self, net: Any, *, vhost: bool = False) -> None:
        self.net = net
        self.there, self.here = net.tap(net.a, "bscsrc"), net.tap(net.b, "bscdst")
        self.client = net.capture(net.client, "eth0")
        self.at_source, self.at_destination = net.capture(net.a, "bscsrc"), net.capture(net.b, "bscdst")
        self.leaving = net.a.run(lambda: LeavingQueue(self.there, mac_bytes(GUEST), 0, vhost=vhost))
        self.arriving = net.b.run(ArrivingTap, self.here, 0)
        self.sent = 0
        self.before, self.after = Guest(self.there), Guest(self.here)
        announce_now([(self.there, Announcement(GUEST))])
        net.wait_until(lambda: net.ports_of(net.b, GUEST), "the network to know the guest's place")

    def sends(self, count: int) -> None:
        for _ in range(count):
            self.client.send(numbered(self.sent))
            self.sent += 1

    def sends_to_source(self, count: int) -> None:
        """Send, and wait until all of it has come to the source's tap."""
        self.sends(count)
        self.wait_at(self.at_source)
        self.leaving.look()

    def sends_to_destination(self, count: int) -> None:
        self.sends(count)
        self.wait_at(self.at_destination)
        self.arriving.look()

    def wait_at(self, capture: Any) -> None:
        """Wait for the frame that was sent last. The watch sees what the capture sees."""
        self.net.wait_until(lambda: self.sent - 1 in numbers(capture.read()), f"frame {self.sent - 1}")

    def stops(self) -> None:
        self.leaving.stopped(time.time_ns() // 1000)

    def draws(self, parcels: list[Parcel]) -> None:
        self.arriving.draw(parcels)
        announce_now([(self.here, Announcement(GUEST))])
        self.net.wait_until(lambda: self.net.ports_of(self.net.a, GUEST) == [("up0", False)], "the network to follow")

    def announces(self) -> None:
        """The destination announces, and it has come to the source's bridge."""
        uplink = self.net.capture(self.net.a, "up0")
        announce_now([(self.here, Announcement(GUEST))])
        for frame in Announcement(GUEST).frames():
            uplink.wait_for(frame)

    def close(self) -> None:
        self.leaving.close()
        self.arriving.close()


@pytest.fixture
def net(quiet_net: Any) -> Any:
    """Every frame is counted here."""
    return quiet_net


@pytest.fixture
def pair(net: Any) -> Iterator[Pair]:
    pair = Pair(net)
    yield pair
    pair.close()


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


def test_what_qemu_takes_after_the_stop_is_found_back(pair: Pair):
    pair.leaving.begin()
    pair.sends_to_source(4)
    pair.before.runs()
    pair.leaving.look()
    pair.stops()
    pair.sends_to_source(2)
    pair.before.tap.take_queued(1)  # QEMU, which drops it
    parcels = pair.leaving.take()
    pair.leaving.count_swallowed()
    pair.draws(parcels)
    assert pair.after.got_numbers() == [4, 5]
    assert pair.leaving.found_back == 1


def test_what_qemu_drops_while_it_stops_is_found_back_by_the_receive_queue(pair: Pair):
    used = 65534
    pair.leaving.used = lambda: used
    pair.leaving.begin()
    for _ in range(4):
        pair.sends_to_source(1)
        pair.before.runs()
        used = (used + 1) % 65536
        pair.leaving.look()
    pair.sends_to_source(2)
    pair.before.tap.take_queued(1)  # QEMU between the stop of the vCPUs and its STOP: the guest has not got it
    pair.sends_to_source(1)
    pair.before.tap.take_queued(1)
    pair.stops()
    pair.sends_to_source(1)
    first = pair.leaving.take()
    assert numbers([parcel.frame for parcel in first]) == [4, 5, 6, 7]
    pair.draws(first)
    assert pair.after.got_numbers() == [4, 5, 6, 7]
    pair.leaving.count_swallowed()
    assert pair.leaving.found_back == 2


class Staying:
    """The switchover fails: QEMU has taken frames at the stop, keeps some of them, and runs the VM on at the source."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.used = 65534
        self.free = 10
        pair.leaving.used, pair.leaving.free = lambda: self.used, lambda: self.free
        pair.leaving.begin()
        pair.leaving.look()
        pair.stops()

    def takes(self, frames: int, *, gives: int) -> None:
        self.pair.before.tap.take_queued(frames)
        self.gives(gives)

    def gives(self, frames: int) -> None:
        self.used = (self.used + frames) % 65536

    def goes_on(self) -> None:
        self.gives(len(self.pair.before.tap.take_queued()))

    def got_last(self, number: int) -> None:
        """The guest's queue shows this frame as the one that was filled in last."""
        self.pair.leaving.last_given = lambda: Parcel(0, 0, bytes(10), numbered(number))

    def look(self, *, last: bool = False) -> list[int] | None:
        missing = self.pair.leaving.missing(last_look=last)
        return None if missing is None else numbers([parcel.frame for parcel in missing])


@pytest.fixture
def staying(pair: Pair) -> Staying:
    return Staying(pair)


TAKEN_GIVEN_MISSING = pytest.mark.parametrize(
    ("taken", "given", "missing"),
    [(1, 1, []), (1, 0, [0]), (2, 1, [0]), (2, 2, []), (2, 0, [0, 1]), (0, 0, [])],
    ids=["kept", "dropped", "dropped, then kept", "both kept", "both dropped", "nothing taken"],
)


@TAKEN_GIVEN_MISSING
def test_what_was_taken_and_not_given_to_a_vm_that_stays_is_found(
    staying: Staying, taken: int, given: int, missing: list[int]
):
    staying.pair.sends_to_source(4)
    staying.takes(taken, gives=given)
    staying.goes_on()
    staying.got_last(3)
    assert staying.look() == missing
    assert not staying.pair.leaving.is_untold


@TAKEN_GIVEN_MISSING
def test_where_the_guest_does_not_show_its_last_frame_nothing_is_guessed(
    staying: Staying, taken: int, given: int, missing: list[int]
):
    staying.pair.sends_to_source(4)
    staying.takes(taken, gives=given)
    staying.goes_on()
    assert staying.look() == (None if missing else [])
    assert staying.look(last=True) == []
    assert staying.pair.leaving.is_untold is bool(missing)


def test_a_frame_like_the_last_one_before_the_stop_is_not_taken_for_it(staying: Staying):
    """QEMU has kept it, and the guest's queue still shows the other."""
    staying.pair.sends_to_source(1)
    staying.got_last(0)
    staying.takes(1, gives=0)
    assert staying.look() is None
    staying.gives(1)
    assert staying.look() == []


def test_what_contradicts_itself_is_not_believed(staying: Staying):
    """Two processors gave the watch two frames in another order than the tap."""
    staying.pair.sends_to_source(2)
    staying.takes(2, gives=1)
    staying.got_last(1)
    staying.free = 0
    assert staying.look() is None
    staying.free = 1
    staying.gives(1)
    assert staying.look() == []
    assert staying.pair.leaving.is_untold


def test_a_frame_on_its_way_to_the_guest_is_not_missing(staying: Staying):
    """Taken out of the tap, and not filled in yet: QEMU may be put aside just then."""
    staying.pair.sends_to_source(4)
    staying.takes(1, gives=0)
    staying.goes_on()
    staying.gives(-1)
    staying.got_last(2)
    assert [staying.look() for _ in range(5)] == [None] * 5
    staying.gives(1)
    assert staying.look() == [0]


def test_while_frames_wait_it_is_not_said_what_is_missing(staying: Staying):
    staying.pair.sends_to_source(3)
    staying.takes(1, gives=0)
    assert staying.look() is None
    staying.goes_on()
    staying.free = 0  # the kernel's vhost-net may hold some, for which the guest has no room
    assert staying.look() is None
    staying.free = 1
    staying.got_last(2)
    assert staying.look() == [0]


def test_a_guest_that_does_not_keep_up_keeps_from_guessing(staying: Staying):
    staying.pair.sends_to_source(3)
    staying.takes(1, gives=0)
    assert staying.look(last=True) == []
    assert staying.pair.leaving.is_untold


@pytest.mark.parametrize(("passes", "missing"), [(True, [0]), (False, [0]), (None, [])])
def test_whether_a_group_fills_a_buffer_is_told_by_the_guests_filter(
    staying: Staying, passes: bool | None, missing: list[int]
):
    """Without it nothing is guessed."""
    group = b"\x33\x33\0\0\0\1"
    staying.pair.leaving.passes = lambda frame: passes if frame[:6] == group else None
    staying.pair.sends_to_source(1)
    staying.takes(1, gives=0)
    staying.pair.client.send(group + numbered(0)[6:])
    staying.pair.sends_to_source(2)
    staying.gives(len(staying.pair.before.tap.take_queued()) - (passes is False))
    staying.got_last(2)
    assert staying.look() == missing
    assert staying.pair.leaving.is_untold is (passes is None)


def test_what_fills_several_buffers_keeps_from_guessing(staying: Staying):
    pair = staying.pair
    pair.leaving.passes = lambda _frame: True
    fcntl.ioctl(pair.there.fileno(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    pair.sends_to_source(1)
    staying.takes(1, gives=0)
    with closing(pair.net.a.run(TapWatch, "bscsrc", 0)) as neighbour:
        assert neighbour.put(Parcel(0, 0, SEGMENTED, segments(6000)))
    staying.goes_on()
    assert staying.look() == []
    assert pair.leaving.is_untold


def test_more_than_qemu_takes_is_no_frame_of_its(staying: Staying):
    staying.pair.sends_to_source(5)
    staying.takes(3, gives=0)
    staying.goes_on()
    staying.got_last(4)
    assert staying.look() == []
    assert staying.pair.leaving.is_untold


@pytest.mark.parametrize("late", [1, 2, 3])
@pytest.mark.parametrize("gone", [0, 1])
def test_a_stop_that_is_heard_when_the_vm_runs_on_already(pair: Pair, gone: int, late: int):
    """QEMU lets it run by itself when a copy fails. One that is missing may have come before STOP."""
    used = 65534
    pair.leaving.used, pair.leaving.free = lambda: used, lambda: 10
    pair.leaving.begin()
    pair.sends_to_source(2)
    used = (used + len(pair.before.tap.take_queued())) % 65536
    pair.leaving.look()
    pair.sends_to_source(gone)
    pair.before.tap.take_queued()
    stop_us = time.time_ns() // 1000
    resume_us = stop_us + 1
    pair.sends_to_source(late)
    used += len(pair.before.tap.take_queued())
    pair.leaving.stopped(stop_us)
    pair.leaving.runs_again(resume_us)
    assert pair.leaving.missing(last_look=True) == []
    assert pair.leaving.is_untold is bool(gone)


def test_nobody_knows_what_is_missing_where_the_watch_has_missed_a_frame(staying: Staying):
    staying.pair.sends_to_source(3)
    staying.takes(1, gives=0)
    staying.goes_on()
    staying.got_last(2)
    missed = staying.pair.leaving.watch.count_missed()
    staying.pair.leaving.watch.count_missed = lambda: missed + 1
    assert staying.look(last=True) == []
    assert staying.pair.leaving.is_untold


@pytest.mark.parametrize("held", [0, 2, 3, 10])
def test_what_vhost_net_holds_at_every_look_does_not_deceive(net: Any, held: int):
    """It takes up to 64 frames out of the tap before it gives them to the guest; at the stop it puts them back."""
    with closing(Pair(net, vhost=True)) as pair:
        used = 0
        pair.leaving.used = lambda: used
        pair.leaving.begin()
        pair.sends_to_source(20)
        frames = pair.before.tap.take_queued(20 - held)
        used += len(frames)
        withheld = pair.before.tap.take_queued()
        pair.leaving.look()
        for parcel in withheld:  # as if the kernel had put them back: the copy of each that is seen is not counted
            pair.before.tap.inject(parcel.frame)
        pair.leaving.last_given = lambda: Parcel(0, 0, frames[-1].header, frames[-1].frame)
        pair.stops()
        assert numbers([parcel.frame for parcel in pair.leaving.take()])[:held] == list(range(20 - held, 20))


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


def test_the_vm_stays_and_gets_what_went_to_the_destination(pair: Pair):
    pair.leaving.begin()
    pair.stops()
    pair.sends_to_source(2)
    pair.draws(pair.leaving.take())
    pair.sends_to_destination(2)
    back = pair.arriving.take_back()
    assert numbers([parcel.frame for parcel in back]) == [2, 3]  # what was carried there never left the source's tap
    for parcel in back:
        pair.leaving.watch.put(parcel)
    assert pair.before.got_numbers() == [0, 1, 2, 3]
    assert numbers([parcel.frame for parcel in pair.arriving.take_back()]) == []


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


def test_all_that_waits_in_a_long_tap_is_carried(net: Any):
    tap = net.a.run(Tap.open, "bscsrc", "br0", queue_frames=8000)
    with tap:
        leaving, neighbour = net.a.run(LeavingQueue, tap, mac_bytes(GUEST), 0), net.a.run(TapWatch, "bscsrc", 0)
        leaving.begin()
        leaving.look()
        for number in range(6000):
            assert neighbour.put(Parcel(0, 0, bytes(10), numbered(number)))
        leaving.stopped(time.time_ns() // 1000)
        assert numbers([parcel.frame for parcel in leaving.take()]) == list(range(6000))
        assert (leaving.overflowed, leaving.not_carried()) == (0, 0)
        leaving.close()
        neighbour.close()


def test_what_is_not_remembered_any_more_is_told(net: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bascule.network.handover.leaving.KEPT_FRAMES", 3)
    pair = Pair(net)
    pair.leaving.begin()
    pair.leaving.look()
    pair.sends_to_source(5)
    pair.leaving.look()
    pair.stops()
    assert numbers([parcel.frame for parcel in pair.leaving.take()]) == [2, 3, 4]
    assert pair.leaving.not_carried() == 2
    pair.close()


def test_what_is_dropped_just_before_the_stop_is_carried(quiet_net: Any):
    """The frames that found the tap full are newer than all that wait in it, which are carried too."""
    net = quiet_net
    tap = net.a.run(Tap.open, "bscsrc", "br0", queue_frames=4)
    with tap:
        leaving, neighbour = net.a.run(LeavingQueue, tap, mac_bytes(GUEST), 0), net.a.run(TapWatch, "bscsrc", 0)
        leaving.begin()
        leaving.look()
        for number in range(4):
            neighbour.put(Parcel(0, 0, bytes(10), numbered(number)))
        leaving.look()
        for number in range(4, 7):
            neighbour.put(Parcel(0, 0, bytes(10), numbered(number)))
        leaving.stopped(time.time_ns() // 1000)
        assert numbers([parcel.frame for parcel in leaving.take()]) == list(range(7))
        assert leaving.overflowed == 0
        leaving.close()
        neighbour.close()


def test_what_a_tap_dropped_long_before_the_move_is_not_of_the_move(quiet_net: Any):
    net = quiet_net
    with net.a.run(Tap.open, "bscsrc", "br0", queue_frames=4) as tap:
        leaving, neighbour = net.a.run(LeavingQueue, tap, mac_bytes(GUEST), 0), net.a.run(TapWatch, "bscsrc", 0)
        for number in range(9):
            neighbour.put(Parcel(0, 0, bytes(10), numbered(number)))
        tap.take_queued()
        leaving.begin()
        for number in range(9, 11):
            neighbour.put(Parcel(0, 0, bytes(10), numbered(number)))
        leaving.stopped(time.time_ns() // 1000)  # before the first look
        assert leaving.overflowed == 0
        leaving.close()
        neighbour.close()


def test_a_kernel_that_does_not_say_what_was_read_doubles_nothing(quiet_net: Any, monkeypatch: pytest.MonkeyPatch):
    """Somebody else configures the host's network for long: what came before the stop may have been read then."""
    pair = Pair(quiet_net)
    pair.leaving.begin()
    pair.sends_to_source(5)
    pair.before.runs()
    pair.leaving.look()
    monkeypatch.setattr(TapCounters, "read", failing)
    pair.stops()
    pair.sends_to_source(1)
    assert numbers([parcel.frame for parcel in pair.leaving.take()]) == [5]
    pair.close()


def failing(_counters: TapCounters) -> Counts:
    raise Failed("the kernel does not answer")


def test_a_late_answer_to_an_earlier_question_is_not_taken_for_the_next(net: Any):
    with net.tap(net.a, "bscsrc") as tap:
        counters, watch = net.a.run(TapCounters, "bscsrc"), net.a.run(TapWatch, "bscsrc", 0)
        before = counters.read().read
        question = struct.pack("=IHHII", 28, RTM_GETSTATS, NLM_F_REQUEST, 0, 0) + counters._question
        counters._socket.send(question)
        for number in range(5):
            assert watch.put(Parcel(0, 0, bytes(10), numbered(number)))
        taken = len(tap.take_queued())
        assert counters.read().read - before == taken >= 5
        counters.close()
        watch.close()


def segments(length: int) -> bytes:
    """A TCP frame of IPv4 as large as segmentation offload makes it, its checksum left to the hardware."""
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, length - 14, 1, 0x4000, 64, 6, 0, 0x0A4D0001, 0x0A4D0032)
    tcp = struct.pack("!HHIIBBHHH", 5000, 7, 1, 1, 0x50, 0x10, 1024, 0, 0)
    return (mac_bytes(GUEST) + mac_bytes(CLIENT) + b"\x08\x00" + ip + tcp).ljust(length, b"\xa5")


def test_a_guest_that_never_catches_up_gets_what_came_last(net: Any):
    """Its tap was never seen empty, so how many wait is not known, but what came beyond what can have been read is."""
    pair = Pair(net)
    pair.leaving.begin()
    pair.sends_to_source(3)
    pair.before.got += [queued.frame for queued in pair.there.take_queued(2)]
    pair.sends(3)
    pair.wait_at(pair.at_source)
    pair.stops()
    carried = numbers([parcel.frame for parcel in pair.leaving.take()])
    assert carried == [5]
    assert not set(carried) & set(numbers(pair.before.got))
    pair.close()


def test_a_guest_that_never_catches_up_tells_by_the_frame_that_it_got_last(net: Any):
    pair = Pair(net)
    pair.leaving.begin()
    pair.sends_to_source(6)  # none of them was ever seen to have been read
    last = pair.there.take_queued(3)[-1]
    pair.leaving.last_given = lambda: Parcel(0, 0, *last)
    pair.stops()
    assert numbers([parcel.frame for parcel in pair.leaving.take()]) == [3, 4, 5]
    pair.close()


def test_the_frame_that_the_guest_got_last_tells_better_than_counts_that_were_never_right(net: Any):
    """At 10,000 frames a second every sample may catch a frame on its way: here the guest seems to have one more."""
    pair = Pair(net)
    used = [3]
    pair.leaving.used = lambda: used[0]
    pair.leaving.begin()
    pair.sends_to_source(3)
    pair.there.take_queued(3)
    pair.leaving.look()
    pair.sends_to_source(4)
    assert pair.leaving.reckoning.filled is not None
    pair.leaving.reckoning.filled -= 1
    last, _dropped = pair.there.take_queued(2)
    used[0] += 1
    pair.leaving.last_given = lambda: Parcel(0, 0, *last)
    pair.stops()
    assert numbers([parcel.frame for parcel in pair.leaving.take()]) == [4, 5, 6]
    pair.close()


def test_where_frames_may_fill_several_buffers_the_last_one_tells(pair: Pair):
    """The used index says nothing then, and QEMU had read one frame more than it gave."""
    pair.leaving.used = lambda: 7
    pair.leaving.begin()
    pair.before.runs()
    pair.leaving.look()
    pair.client.send(numbered(pair.sent, "33:33:00:00:00:01"))
    pair.sent += 1
    pair.sends_to_source(2)
    last, _dropped = pair.before.tap.take_queued(2)
    pair.leaving.last_given = lambda: Parcel(0, 0, *last)
    pair.stops()
    assert numbers([parcel.frame for parcel in pair.leaving.take()]) == [1, 2]


def test_two_frames_alike_tell_nothing(net: Any):
    pair = Pair(net)
    pair.leaving.begin()
    pair.sends_to_source(2)
    pair.client.send(numbered(1))
    pair.sends_to_source(1)
    last = pair.there.take_queued(2)[-1]
    pair.leaving.last_given = lambda: Parcel(0, 0, *last)
    pair.stops()
    assert 1 not in numbers([parcel.frame for parcel in pair.leaving.take()])  # it may have got both
    pair.close()


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
