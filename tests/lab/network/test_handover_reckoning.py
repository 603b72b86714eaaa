"""Which frames the guest has got at STOP: real taps, whose frames the test reads as QEMU does."""

from __future__ import annotations

import struct
import time
from contextlib import closing
from typing import Any

import pytest
from tests.lab.network.pair import (
    GUEST,
    Pair,
    numbered,
    numbers,
    shows,
)

from bascule.errors import Failed
from bascule.network.frames import mac_bytes
from bascule.network.handover.counters import NLM_F_REQUEST, RTM_GETSTATS, Counts, TapCounters
from bascule.network.handover.leaving import LeavingQueue
from bascule.network.handover.parcel import Parcel
from bascule.network.handover.watch import TapWatch
from bascule.network.tap import Tap

pytestmark = pytest.mark.lab


@pytest.fixture
def net(quiet_net: Any) -> Any:
    """Every frame is counted here."""
    return quiet_net


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
        shows(pair.leaving, Parcel(0, 0, *frames[-1]))
        pair.stops()
        assert numbers([parcel.frame for parcel in pair.leaving.take()])[:held] == list(range(20 - held, 20))


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
        assert (leaving.overflowed, leaving.overflowed_and_carried) == (0, 3)
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
    shows(pair.leaving, Parcel(0, 0, *last))
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
    shows(pair.leaving, Parcel(0, 0, *last))
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
    shows(pair.leaving, Parcel(0, 0, *last))
    pair.stops()
    assert numbers([parcel.frame for parcel in pair.leaving.take()]) == [1, 2]


def test_two_frames_alike_tell_nothing(net: Any):
    pair = Pair(net)
    pair.leaving.begin()
    pair.sends_to_source(2)
    pair.client.send(numbered(1))
    pair.sends_to_source(1)
    last = pair.there.take_queued(2)[-1]
    shows(pair.leaving, Parcel(0, 0, *last))
    pair.stops()
    assert 1 not in numbers([parcel.frame for parcel in pair.leaving.take()])  # it may have got both
    pair.close()
