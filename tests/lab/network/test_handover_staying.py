"""Which frames a VM that stays has not got: real taps, whose frames the test reads as QEMU does."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Sequence
from contextlib import closing

import pytest
from tests.lab.network.pair import SEGMENTED, TUN_F_CSUM, TUN_F_TSO4, TUNSETOFFLOAD, Pair, numbered, numbers, segments

from bascule.network.handover.leaving import Given
from bascule.network.handover.parcel import Parcel
from bascule.network.handover.references import STILL_LOOKS
from bascule.network.handover.watch import TapWatch
from bascule.network.tap import QueuedFrame

pytestmark = pytest.mark.lab


class Staying:
    """The switchover fails: QEMU has taken frames at the stop, keeps some of them, and runs the VM on at the source.

    Its guest's queue shows as many of the last frames as `shown` says.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.used = 65534
        self.free = 10
        self.shown = 1
        self.filled: list[Given] = []
        pair.leaving.used, pair.leaving.free, pair.leaving.given = lambda: self.used, lambda: self.free, self._given
        pair.leaving.begin()
        pair.leaving.look()

    def _given(self, last: int) -> list[Given]:
        return self.filled[::-1][: min(last, self.shown)]

    def lives(self) -> None:
        """Nothing moves for some looks, so that the guest is known to have got all."""
        for _ in range(STILL_LOOKS + 1):
            self.pair.leaving.look()

    def stops(self) -> None:
        self.pair.stops()

    def takes(self, frames: int, *, gives: int) -> None:
        taken = self.pair.before.tap.take_queued(frames)
        self.gives(taken[len(taken) - gives :])

    def gives(self, frames: Sequence[QueuedFrame]) -> None:
        for frame in frames:
            self.used = (self.used + 1) % 65536
            self.filled.append(Given(self.used, Parcel(0, 0, *frame)))

    def goes_on(self) -> None:
        self.gives(self.pair.before.tap.take_queued())

    def look(self, *, last: bool = False) -> list[int] | None:
        missing = self.pair.leaving.missing(last_look=last)
        return None if missing is None else numbers([parcel.frame for parcel in missing])

    @property
    def is_told(self) -> bool:
        return not self.pair.leaving.untold


@pytest.fixture
def running(pair: Pair) -> Staying:
    """It will stay."""
    return Staying(pair)


@pytest.fixture
def staying(running: Staying) -> Staying:
    running.lives()
    running.stops()
    return running


TAKEN_GIVEN_MISSING = pytest.mark.parametrize(
    ("taken", "given", "missing"),
    [(1, 1, []), (1, 0, [0]), (2, 1, [0]), (2, 2, []), (2, 0, [0, 1]), (0, 0, [])],
    ids=["kept", "dropped", "dropped, then kept", "both kept", "both dropped", "nothing taken"],
)


@TAKEN_GIVEN_MISSING
@pytest.mark.parametrize("shown", [1, 2, 32])
def test_what_was_taken_and_not_given_to_a_vm_that_stays_is_found(
    staying: Staying, shown: int, taken: int, given: int, missing: list[int]
):
    staying.shown = shown
    staying.pair.sends_to_source(4)
    staying.takes(taken, gives=given)
    staying.goes_on()
    assert staying.look() == missing
    assert staying.is_told


@TAKEN_GIVEN_MISSING
def test_where_the_guest_does_not_show_its_last_frame_nothing_is_guessed(
    staying: Staying, taken: int, given: int, missing: list[int]
):
    staying.shown = 0
    staying.pair.sends_to_source(4)
    staying.takes(taken, gives=given)
    staying.goes_on()
    assert staying.look() == (None if missing else [])
    assert staying.look(last=True) == []
    assert staying.is_told is not bool(missing)


def test_a_frame_like_the_last_one_before_the_stop_is_not_taken_for_it(staying: Staying):
    """QEMU has kept it, and the guest's queue still shows the other."""
    staying.pair.sends_to_source(1)
    staying.filled.append(Given(staying.used, Parcel(0, 0, bytes(10), numbered(0))))
    kept = staying.pair.before.tap.take_queued()
    assert staying.look() is None
    staying.gives(kept)
    assert staying.look() == []
    assert staying.is_told


@pytest.mark.parametrize("shown", [1, 2])
def test_what_contradicts_itself_is_not_believed(staying: Staying, shown: int):
    """Two processors gave the watch two frames in another order than the tap."""
    staying.shown = shown
    staying.pair.sends_to_source(2)
    first, second = staying.pair.before.tap.take_queued()
    staying.gives([second])
    staying.free = 0
    assert staying.look() is None
    staying.free = 1
    staying.gives([first])
    assert staying.look() == []
    assert not staying.is_told


def test_a_frame_on_its_way_to_the_guest_is_not_missing(staying: Staying):
    """Taken out of the tap, and not filled in yet: QEMU may be put aside just then."""
    staying.pair.sends_to_source(4)
    staying.takes(1, gives=0)
    *given, on_its_way = staying.pair.before.tap.take_queued()
    staying.gives(given)
    assert [staying.look() for _ in range(5)] == [None] * 5
    staying.gives([on_its_way])
    assert staying.look() == [0]


def test_while_frames_wait_it_is_not_said_what_is_missing(staying: Staying):
    staying.pair.sends_to_source(3)
    staying.takes(1, gives=0)
    assert staying.look() is None
    staying.goes_on()
    staying.free = 0  # the kernel's vhost-net may hold some, for which the guest has no room
    assert staying.look() is None
    staying.free = 1
    assert staying.look() == [0]


def test_a_guest_that_does_not_keep_up_keeps_from_guessing(staying: Staying):
    staying.pair.sends_to_source(3)
    staying.takes(1, gives=0)
    assert staying.look(last=True) == []
    assert not staying.is_told


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
    came = staying.pair.before.tap.take_queued()
    staying.gives([queued for queued in came if queued.frame[:6] != group or passes is not False])
    assert staying.look() == missing
    assert staying.is_told is (passes is not None)


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
    assert not staying.is_told


def test_more_than_qemu_takes_is_no_frame_of_its(staying: Staying):
    staying.pair.sends_to_source(5)
    staying.takes(3, gives=0)
    staying.goes_on()
    assert staying.look() == []
    assert not staying.is_told


def test_nobody_knows_what_is_missing_where_the_watch_has_missed_a_frame(staying: Staying):
    staying.pair.sends_to_source(3)
    staying.takes(1, gives=0)
    staying.goes_on()
    missed = staying.pair.leaving.watch.count_missed()
    staying.pair.leaving.watch.count_missed = lambda: missed + 1
    assert staying.look(last=True) == []
    assert not staying.is_told


class HeardLate:
    """QEMU lets a VM run by itself when a copy fails, and its agent hears of the stop only then."""

    def __init__(self, staying: Staying) -> None:
        self.staying = staying
        self.pair = staying.pair
        self._stop_us = 0

    def lives(self, *, shows: bool) -> None:
        """The guest gets two frames, seen by a look."""
        self.staying.shown = 1 if shows else 0
        self.pair.sends_to_source(2)
        self.staying.goes_on()
        self.pair.leaving.look()

    def stops(self) -> None:
        self._stop_us = time.time_ns() // 1000

    def is_heard(self, shown: int) -> None:
        self.staying.shown = shown
        self.pair.leaving.stopped(self._stop_us)
        self.pair.leaving.runs_again(self._stop_us + 1)


@pytest.fixture
def late(running: Staying) -> HeardLate:
    return HeardLate(running)


SINCE = pytest.mark.parametrize("since", [1, 2, 3, 40])


@SINCE
@pytest.mark.parametrize("gone", [0, 1, 2])
@pytest.mark.parametrize("before", [0, 1], ids=["came after STOP", "came before it"])
def test_where_the_stop_is_heard_late_the_frames_in_the_guests_queue_tell(
    late: HeardLate, before: int, gone: int, since: int
):
    """Those from the last one on that the guest had got when it was looked at during the copy."""
    late.lives(shows=True)
    came_before = min(gone, before)
    late.pair.sends_to_source(came_before)
    late.stops()
    late.pair.sends_to_source(gone - came_before + since)
    late.staying.takes(gone, gives=0)
    late.staying.goes_on()
    late.is_heard(shown=64)
    assert late.staying.look() == list(range(2, 2 + gone))
    assert late.staying.is_told


def test_what_the_queue_showed_once_is_remembered(late: HeardLate):
    late.lives(shows=True)
    late.stops()
    late.pair.sends_to_source(3)
    late.staying.takes(1, gives=0)
    late.staying.goes_on()
    late.is_heard(shown=2)
    late.pair.sends_to_source(30)
    late.staying.goes_on()
    assert late.staying.look() == [2]
    assert late.staying.is_told


def test_so_it_is_while_its_frames_are_still_carried(running: Staying):
    """The stop was heard in time; that the VM runs on is heard when its queue has gone on."""
    running.shown = 2
    running.lives()
    running.stops()
    running.pair.sends_to_source(3)
    running.takes(1, gives=0)
    running.goes_on()
    running.pair.leaving.look_again()
    running.pair.sends_to_source(30)
    running.shown = 0
    running.goes_on()
    running.shown = 1
    assert running.look() == [0]
    assert running.is_told


@pytest.mark.parametrize("gone", [0, 1])
def test_where_the_queue_does_not_show_the_frames_beside_it_nothing_is_guessed(late: HeardLate, gone: int):
    late.lives(shows=True)
    late.staying.shown = 0
    late.pair.sends_to_source(3)
    late.staying.takes(2, gives=2)
    late.stops()
    late.pair.sends_to_source(20)
    late.staying.takes(gone, gives=0)
    late.staying.goes_on()
    late.is_heard(shown=10)
    assert late.staying.look() == []
    assert late.staying.is_told is not bool(gone)


def test_where_all_before_the_stop_was_given_the_first_ones_are_missing(late: HeardLate):
    late.lives(shows=True)
    late.stops()
    late.pair.sends_to_source(20)
    late.staying.takes(2, gives=0)
    late.staying.goes_on()
    late.is_heard(shown=10)
    assert late.staying.look() == [2, 3]
    assert late.staying.is_told


@pytest.mark.parametrize("gone", [0, 1])
def test_where_it_showed_none_before_nothing_is_said(late: HeardLate, gone: int):
    late.lives(shows=False)
    late.pair.sends_to_source(gone)
    late.staying.takes(gone, gives=0)
    late.stops()
    late.pair.sends_to_source(3)
    late.staying.goes_on()
    late.is_heard(shown=64)
    assert late.staying.look(last=True) == []
    assert not late.staying.is_told


def test_a_guest_at_rest_needs_to_show_nothing(late: HeardLate):
    late.lives(shows=False)
    late.staying.lives()
    late.stops()
    late.pair.sends_to_source(3)
    late.staying.takes(1, gives=0)
    late.staying.goes_on()
    late.is_heard(shown=64)
    assert late.staying.look() == [2]
    assert late.staying.is_told


def test_what_it_shows_before_the_stop_is_heard_is_remembered(late: HeardLate):
    """The agent goes on looking, and its host tells it late."""
    late.lives(shows=True)
    late.stops()
    late.pair.sends_to_source(6)
    late.staying.takes(3, gives=2)
    for _ in range(20):
        late.pair.leaving.look()  # what QEMU may hold then is not taken for given
    late.staying.takes(1, gives=1)
    late.pair.leaving.look()
    late.staying.goes_on()
    late.is_heard(shown=1)
    assert late.staying.look() == [2]
    assert late.staying.is_told


def test_what_only_counts_say_at_the_stop_is_no_proof(running: Staying):
    """They may have the guest one frame further than it is; then it lacks one before those that it seems to lack."""
    running.shown = 0
    running.pair.sends_to_source(2)
    running.goes_on()
    running.pair.leaving.look()
    running.stops()
    running.pair.sends_to_source(2)
    running.goes_on()
    assert running.look() == []
    assert not running.is_told


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
