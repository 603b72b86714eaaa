"""The source's side of the hand-over, one queue of a tap: which frames the guest does not get here, and are carried.

Nothing is taken out of the tap. What is carried are copies that the watch has seen, so that a VM that runs on here
after all finds its frames where they were: one in QEMU, the others in the tap, in order.

The kernel counts what is read of a tap, and not of each queue. So where a tap has several, what is read is not known;
what came of a queue is compared with what its guest has got whenever nothing waits in it.
"""

from __future__ import annotations

import select
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count, takewhile
from typing import NamedTuple

from bascule.errors import Failed
from bascule.network.handover.counters import Counts, TapCounters
from bascule.network.handover.left_out import MOST_SWALLOWED, LeftOut
from bascule.network.handover.parcel import Parcel, identity
from bascule.network.handover.reckoning import ONE_BUFFER_BYTES, Reckoning, fills_one_buffer, is_to
from bascule.network.handover.references import References, got_up_to
from bascule.network.handover.watch import TapWatch
from bascule.network.tap import Tap

KEPT_FRAMES = 20_000  # more than the longest tap holds
KEPT_BYTES = 32 << 20
FEWEST_IN_A_FULL_TAP = 1000  # the kernel's usual length, which taps of earlier versions have
VHOST_BATCH = 64  # so many frames vhost-net may have taken out of the tap and not given to the guest yet
TOLD_BY_BYTES = 16  # at its end: whether two frames may be the same, before all of them is compared
MOST_SHOWN = 64  # the guest's queue shows no more than half of these: Linux's driver then puts buffers in again


class Given(NamedTuple):
    """A frame that the guest's receive queue shows, and the used index once it had been filled in."""

    used: int
    parcel: Parcel


def leaving_queues(tap: Tap, mac: bytes, nic: int, *, vhost: bool = False) -> list[LeavingQueue]:
    """Those of one tap; what one of them puts in none takes for another's. Raises `Failed` if it cannot be watched."""
    first = LeavingQueue(tap, mac, nic, vhost=vhost)
    others = range(1, len(tap.descriptors()))
    return [first, *(LeavingQueue(tap, mac, nic, queue, first=first, vhost=vhost) for queue in others)]


class LeavingQueue:
    """One queue of a tap of a VM that is about to leave. `begin` when its copy begins, `look` often, `stopped` at STOP.

    `used` tells the used index of the guest's receive queue, `free` how many empty buffers lie in it, `given` the last
    frames that its guest has got and the queue still shows, of as many as it is asked for, `passes` whether a frame
    passes the filter that its driver has set: None where it is not known.
    """

    def __init__(
        self,
        tap: Tap,
        mac: bytes,
        nic: int,
        queue: int = 0,
        *,
        first: LeavingQueue | None = None,
        vhost: bool = False,
    ) -> None:
        """`first`: the tap's first queue, if it is not this one. `vhost`: the kernel's vhost-net serves it.

        Raises `Failed` where a tap cannot be watched.
        """
        self.used: Callable[[], int | None] = lambda: None
        self.free: Callable[[], int | None] = lambda: None
        self.given: Callable[[int], list[Given]] = lambda _last: []
        self.passes: Callable[[bytes], bool | None] = lambda _frame: None
        descriptors = tap.descriptors()
        self.watch: TapWatch = TapWatch(
            tap.name, nic, queue if len(descriptors) > 1 else None, mark=first.watch.mark if first else None
        )
        self.queue = queue
        self._vhost = vhost
        self._numbers: Iterator[int] = first._numbers if first else count(1)  # of what is taken, where it has siblings
        self._has_siblings = len(descriptors) > 1
        self.reckoning = Reckoning()
        self.found_back = 0
        self.overflowed = 0  # frames that found the tap full while the VM ran: the guest has not got them
        self.overflowed_and_carried = 0  # others, of just before the stop: a VM that leaves gets them
        self.untold = ""  # why it cannot be said whether a VM that stays lacks a frame
        self.is_unsure = False  # what waited here at STOP may not be carried, and how much that is, is not known
        self.passed_over = 0  # frames for which there was no room before they were carried
        self._mac = mac
        self._counters = TapCounters(tap.name)
        self._readable = select.poll()
        self._readable.register(descriptors[queue], select.POLLIN)
        self._kept: deque[tuple[int, Parcel]] = deque()  # when it came, the frame
        self._kept_bytes = 0
        self._counted = Counts(0, 0)
        self._emptied = 0  # so many had been seen when nothing waited, in a tap of several queues
        self._dropped_before: int | None = None
        self._missed = 0  # by the watch, while the VM ran: the guest has got them all the same
        self._stopped_us: int | None = None
        self._at_stop: tuple[int, int | None] | None = None  # read, used
        self._dropped_at_stop: int | None = None
        self._given: tuple[int | None, ...] = None, None, None  # what it got last: as seen, by reference, as counted
        self._references = References()
        self._undelivered_from: int | None = None
        self._carried_up_to = 0
        self._swallowed = 0
        self._read_at_us = 0
        self._after_stop = 1  # the first that came after STOP
        self._left_out: LeftOut | None = None

    def begin(self) -> None:
        """See all frames from now on."""
        self.watch.begin()
        if (counts := self._counts_now()) is not None:
            self._counted = counts
            if self._dropped_before is None:
                self._dropped_before = counts.dropped

    def pause(self) -> None:
        """See none until `begin`: there are too many, and the stop is not near."""
        self.watch.pause()
        self._take_in()
        self.reckoning = Reckoning(seen=self.reckoning.seen)
        self._references.forget(self.reckoning.seen)

    def reads(self) -> int:
        """How many frames QEMU has taken out of the tap, in all, of whatever queue."""
        return self._counters.read().read

    def look(self) -> int:
        """Take in what came; where nothing waits in the tap, learn how the counts lie. Return how many frames came."""
        before = self.reckoning.seen
        self._take_in()
        if self._undelivered_from is not None:
            return self.reckoning.seen - before
        seen, counts = self.reckoning.seen, self._counters.read()
        waits, used = bool(self._readable.poll(0)), self.used()
        still = self._counters.read() == counts
        self._take_in()
        missed = self.watch.count_missed()
        if counts.dropped != self._counted.dropped or missed != self._missed:
            self._forget()
        self._counted, self._missed = counts, missed
        is_empty = not waits and self.reckoning.seen == seen  # all that was seen has been read
        if self._has_siblings:
            if is_empty:
                self._emptied = seen
                self.reckoning.nothing_waits(seen)
                if used is not None:
                    self.reckoning.used_at(seen, used)
        else:
            self.reckoning.some_may_wait(counts.read)
            if still and is_empty:
                self.reckoning.nothing_waits(counts.read)
            if still and used is not None:
                self.reckoning.used_at(counts.read, used)
        if is_empty:
            self._refer(seen, used)
        else:
            self._references.moved()
        return self.reckoning.seen - before

    def _refer(self, seen: int, used: int | None) -> None:
        """Nothing waits: note what the guest has got last, if it shows that, or all, if nothing moves."""
        given, has_room, at_us = self.given(1), bool(self.free()), time.time_ns() // 1000
        self._take_in()
        if has_room and used is not None and self.reckoning.seen == seen:
            self._references.at_rest(at_us, seen, used)
        else:
            self._references.moved()
        first = self._references.first_worth_a_look(self.reckoning.seen)
        for number, used_then in self._places(given, self._up_to_now(first)):
            self._references.shown(at_us, number, used_then)

    def _take_in(self) -> None:
        for at_us, parcel in self.watch.read():
            after_stop = self._stopped_us is not None and at_us > self._stopped_us  # these fill nothing here
            fills_one = is_to(parcel.frame, self._mac) and self._fills(parcel.frame) == 1  # whatever groups it leaves
            number = self.reckoning.came(one_buffer=after_stop or fills_one)
            self._kept.append((at_us, parcel._replace(number=number)))
            self._kept_bytes += len(parcel.frame)
        while len(self._kept) > KEPT_FRAMES or self._kept_bytes > KEPT_BYTES:
            _at_us, parcel = self._kept.popleft()
            self._kept_bytes -= len(parcel.frame)
            if self._undelivered_from is not None and parcel.number > self._carried_up_to:
                self.passed_over += 1

    def stopped(self, at_us: int) -> None:
        """No vCPU runs since `at_us` on this host's wall clock, by QEMU's STOP: reckon what the guest has got."""
        self._stopped_us = at_us
        if (missed := self.watch.count_missed()) != self._missed:
            self._forget()
            self._missed = missed
        counts, used = self._counts_now(), self.used()
        self._at_stop = None if counts is None else (counts.read, used)
        self._dropped_at_stop = None if counts is None else counts.dropped
        self._take_in()
        reckoning = self.reckoning
        after_stop = next((parcel.number for came_us, parcel in self._kept if came_us > at_us), reckoning.seen + 1)
        first, dropped = after_stop, 0
        if counts is not None:
            dropped = counts.dropped - self._counted.dropped  # since the last look: seen, and never read
            if dropped:
                self._references.forget(reckoning.seen)
        on_its_way = VHOST_BATCH if self._vhost else MOST_SWALLOWED  # of those that are seen and do not wait, at most
        certainly = max(0, self._emptied - on_its_way)  # it has got them
        if counts is not None and not self._has_siblings:
            last_read = reckoning.read_at_most_up_to(counts.read)
            if last_read is not None and counts.read - self._counted.read >= FEWEST_IN_A_FULL_TAP:
                last_read += dropped  # else all that waited before them waits still
            first = after_stop if last_read is None else min(after_stop, last_read + 1)
            certainly = 0 if reckoning.ahead is None else first - 1 - on_its_way
        shown = next((number for number, _ in self._places(self.given(1), range(certainly, first))), None)
        self._read_at_us = time.time_ns() // 1000
        referred = counted = None
        if used is not None:
            reference = self._references.last_before(at_us)
            if reference is not None and reference.number >= reckoning.uncertain:
                referred = got_up_to(reference, used)
            counted = reckoning.delivered_up_to(used)
        self._given = shown, referred, counted
        told = next((given for given in self._given if given is not None and certainly <= given < first), None)
        self.is_unsure = self._has_siblings and told is None and (0 if self._vhost else self._emptied) < first - 1
        first = first if told is None else told + 1
        self._undelivered_from = first
        self._carried_up_to = first - 1
        if told is not None and used is not None:
            self._left_out = LeftOut(first, used, is_certain=told in (shown, referred))
        self._after_stop = after_stop
        if self._kept:
            self.passed_over += max(0, self._kept[0][1].number - first)
        if counts is not None and self._dropped_before is not None and not self.queue:  # it counts for its siblings
            self.overflowed = counts.dropped - self._dropped_before
            if self._has_siblings or first + dropped <= after_stop:
                self.overflowed -= dropped
                self.overflowed_and_carried = dropped

    def _forget(self) -> None:
        """Frames were seen that never came into the tap, or came unseen: their number is not to be relied on."""
        self.reckoning.forget()
        self._references.forget(self.reckoning.seen)

    def runs_again(self, at_us: int) -> None:
        """It runs on here since `at_us`. If it did when the stop was reckoned, what it had got then was not seen."""
        if self._stopped_us is None:
            return
        if at_us <= self._read_at_us:
            self._begin_before_the_stop(self._stopped_us)
        self._see_places()

    def _begin_before_the_stop(self, stopped_us: int) -> None:
        """Tell what is left out from the last frame on of which it is known that the guest got it before the stop."""
        self._left_out = None
        self._undelivered_from = self._after_stop
        if (before := self._references.last_before(stopped_us)) is not None:
            first = self._undelivered_from = before.number + 1
            self._left_out = LeftOut(first, before.used, at_stop=first == self._after_stop)
            self._left_out.shows(self._references.shown_since(stopped_us))

    def _see_places(self) -> None:
        """While the queue still shows them, learn which frames the guest has got since it runs on here."""
        if self._left_out is not None:
            given = self.given(MOST_SHOWN)
            self._take_in()
            self._left_out.shows(self._places(given, self._up_to_now(self._left_out.first)))

    def _counts_now(self) -> Counts | None:
        with suppress(Failed):
            return self._counters.read()
        return None

    def _up_to_now(self, first: int) -> range:
        return range(first, self.reckoning.seen + 1)

    def _places(self, given: Sequence[Given], numbers: range) -> list[tuple[int, int]]:
        """Which of the frames with these numbers were given, and the used index of each; without those alike."""
        ends = {shown.frame[-TOLD_BY_BYTES:] for _, shown in given}
        if not ends:
            return []
        alike: dict[int, list[int]] = defaultdict(list)
        for _, parcel in self._since(numbers.start):
            if parcel.frame[-TOLD_BY_BYTES:] in ends and parcel.number in numbers:
                alike[identity(parcel)].append(parcel.number)
        same = [(alike.get(identity(shown), []), used) for used, shown in given]
        return [(found[0], used) for found, used in same if len(found) == 1]

    def _since(self, first: int) -> list[tuple[int, Parcel]]:
        """What is kept from a number on and when it came, the newest first: there may be thousands, few are wanted."""
        return list(takewhile(lambda kept: kept[1].number >= first, reversed(self._kept)))

    def take(self) -> list[Parcel]:
        """The frames to carry that came since the last time, in order; not the guest's own, by which it announces.

        Those of the NIC's other queues are numbered in one row with them.
        """
        self._take_in()
        taken = [parcel for _, parcel in self._since(self._carried_up_to + 1)[::-1]]
        if taken:
            self._carried_up_to = taken[-1].number
        taken = [parcel for parcel in taken if parcel.frame[6:12] != self._mac]
        return [each._replace(number=next(self._numbers)) for each in taken] if self._has_siblings else taken

    def count_swallowed(self) -> None:
        """At the end: of the frames that were carried, count those that QEMU has read, which would have been lost.

        None where the tap has several queues: it is not known of which QEMU has read them.
        """
        self.look_again()
        self.found_back = min(self._swallowed, MOST_SWALLOWED)

    def not_carried(self) -> int:
        """How many frames came after STOP and could not be carried: too many at once, or of an unknown kind."""
        return self.passed_over + self.watch.count_missed() - self._missed

    def look_again(self) -> None:
        """While the VM stands still: see how many frames QEMU has taken out of the tap, which it does not give it.

        If the VM runs here again, QEMU first gives it what it has kept, and reads on then.
        """
        if self._undelivered_from is None or self._at_stop is None:
            return
        with suppress(Failed):  # the tap is gone
            read = None if self._has_siblings else self.reckoning.read_up_to(self.reads())
            if self.used() != self._at_stop[1]:
                self._see_places()
            elif read is not None:
                self._swallowed = max(self._swallowed, read - self._undelivered_from + 1)

    def missing(self, *, last_look: bool = False) -> list[Parcel] | None:
        """For a VM that runs on here: frames that were taken out of the tap while it stood still, and not given to it.

        None: that is not known yet, so look again in a few ms, before others put frames into the tap. Where it cannot
        be told, `untold` says why.
        """
        self.untold = ""
        if self._undelivered_from is None:
            return []
        left_out, used, now_us = self._left_out, self.used(), time.time_ns() // 1000  # what comes later is on its way
        counts = self._counts_now()
        self._take_in()
        if left_out is None or used is None:
            return self._cannot_tell("it is not known what the guest had got")
        if counts is None or counts.dropped != self._dropped_at_stop or self.watch.count_missed() != self._missed:
            return self._cannot_tell("frames found the tap full, or came unseen")
        since = self._since(left_out.first)
        came = [parcel for _, parcel in takewhile(lambda kept: kept[0] <= now_us, since[::-1])]
        fills = [self._fills(parcel.frame) for parcel in came]
        if len(since) < len(self._up_to_now(left_out.first)):
            return self._cannot_tell("too many frames came")
        if None in fills:
            return self._cannot_tell("it is not known how many of the guest's buffers each frame fills")
        self._see_places()
        filling = [parcel for parcel, fill in zip(came, fills, strict=True) if fill]
        if not self._readable.poll(0) and self.free():
            left_out.nothing_waits(len(filling), used)
        try:
            missing = left_out.told([parcel.number for parcel in filling])
        except ValueError as error:
            return self._cannot_tell(str(error))
        if missing is None:
            return self._cannot_tell("the guest did not take all in time, or does not show it") if last_look else None
        return [parcel for parcel in filling if parcel.number in missing]

    def _cannot_tell(self, why: str) -> list[Parcel]:
        self.untold = why
        return []

    def _fills(self, frame: bytes) -> int | None:
        """How many of the guest's buffers a frame fills, as far as it is known."""
        passes = self.passes(frame) if len(frame) <= ONE_BUFFER_BYTES else None
        if passes is None:
            return 1 if fills_one_buffer(frame, self._mac) else None
        return int(passes)

    def came_here(self) -> list[Parcel]:
        """Every frame that is remembered from STOP on: the guest finds them here if it runs here after all."""
        self._take_in()
        return [parcel for _, parcel in self._since(self._undelivered_from or 0)[::-1]]

    def reckoned(self) -> dict[str, int | None]:
        """What the counts said, for the log."""
        return {
            "queue": self.queue,
            "seen": self.reckoning.seen,
            "ahead": self.reckoning.ahead,
            "filled": self.reckoning.filled,
            "uncertain": self.reckoning.uncertain,
            "read_at_stop": None if self._at_stop is None else self._at_stop[0],
            "used_at_stop": None if self._at_stop is None else self._at_stop[1],
            "last_given": self._given[0],
            "last_by_reference": self._given[1],
            "last_by_counts": self._given[2],
            "undelivered_from": self._undelivered_from,
            "overflowed": self.overflowed,
            "overflowed_and_carried": self.overflowed_and_carried,
        }

    def close(self) -> None:
        """Look no more."""
        self.watch.close()
        self._counters.close()
