"""The source's side of the hand-over, one queue of a tap: which frames the guest does not get here, and are carried.

Nothing is taken out of the tap. What is carried are copies that the watch has seen, so that a VM that runs on here
after all finds its frames where they were: one in QEMU, the others in the tap, in order.

The kernel counts what is read of a tap, and not of each queue. So where a tap has several, what is read is not known;
what came of a queue is compared with what its guest has got whenever nothing waits in it.
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import accumulate, count, takewhile

from bascule.errors import Failed
from bascule.network.handover.counters import Counts, TapCounters
from bascule.network.handover.parcel import Parcel, identity
from bascule.network.handover.reckoning import ONE_BUFFER_BYTES, USED_MODULUS, Reckoning, fills_one_buffer
from bascule.network.handover.watch import TapWatch
from bascule.network.tap import Tap

KEPT_FRAMES = 20_000  # more than the longest tap holds
KEPT_BYTES = 32 << 20
FEWEST_IN_A_FULL_TAP = 1000  # the kernel's usual length, which taps of earlier versions have
MOST_SWALLOWED = 2
VHOST_BATCH = 64  # so many frames vhost-net may have taken out of the tap and not given to the guest yet
TOLD_BY_BYTES = 16  # at its end: whether two frames may be the same, before all of them is compared


def leaving_queues(tap: Tap, mac: bytes, nic: int, *, vhost: bool = False) -> list[LeavingQueue]:
    """Those of one tap; what one of them puts in none takes for another's. Raises `Failed` if it cannot be watched."""
    first = LeavingQueue(tap, mac, nic, vhost=vhost)
    others = range(1, len(tap.descriptors()))
    return [first, *(LeavingQueue(tap, mac, nic, queue, first=first, vhost=vhost) for queue in others)]


class LeavingQueue:
    """One queue of a tap of a VM that is about to leave. `begin` when its copy begins, `look` often, `stopped` at STOP.

    `used` tells the used index of the guest's receive queue, `free` how many empty buffers lie in it, `last_given` the
    frame that its guest has got last, `passes` whether a frame passes the filter that its driver has set: None where it
    is not known.
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
        self.last_given: Callable[[], Parcel | None] = lambda: None
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
        self.is_untold = False  # whether a VM that stays lacks a frame
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
        self._given: tuple[int | None, int | None] = None, None  # the last one that the guest got: as seen, as counted
        self._undelivered_from: int | None = None
        self._carried_up_to = 0
        self._swallowed = 0
        self._read_at_us = 0
        self._after_stop = 1  # the first that came after STOP
        self._is_first_known = False  # of those that the guest had not got at STOP
        self._used_before: int | None = None  # the used index when the guest had got all that came before that one
        self._most_missing = KEPT_FRAMES
        self._least_missing = 0

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
            self.reckoning.forget()
        self._counted, self._missed = counts, missed
        if self._has_siblings:
            if not waits and self.reckoning.seen == seen:  # all that was seen has been read
                self._emptied = seen
                self.reckoning.nothing_waits(seen)
                if used is not None:
                    self.reckoning.used_at(seen, used)
            return self.reckoning.seen - before
        self.reckoning.some_may_wait(counts.read)
        if still and not waits and self.reckoning.seen == seen:
            self.reckoning.nothing_waits(counts.read)
        if still and used is not None:
            self.reckoning.used_at(counts.read, used)
        return self.reckoning.seen - before

    def _take_in(self) -> None:
        for at_us, parcel in self.watch.read():
            after_stop = self._stopped_us is not None and at_us > self._stopped_us  # these fill nothing here
            number = self.reckoning.came(one_buffer=after_stop or fills_one_buffer(parcel.frame, self._mac))
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
            self.reckoning.forget()
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
        on_its_way = VHOST_BATCH if self._vhost else MOST_SWALLOWED  # of those that are seen and do not wait, at most
        certainly = max(0, self._emptied - on_its_way)  # it has got them
        if counts is not None and not self._has_siblings:
            last_read = reckoning.read_at_most_up_to(counts.read)
            if last_read is not None and counts.read - self._counted.read >= FEWEST_IN_A_FULL_TAP:
                last_read += dropped  # else all that waited before them waits still
            first = after_stop if last_read is None else min(after_stop, last_read + 1)
            certainly = 0 if reckoning.ahead is None else first - 1 - on_its_way
        counted = None if used is None else reckoning.delivered_up_to(used)
        self._given = self._number_of(self.last_given(), range(certainly, first)), counted
        self._read_at_us = time.time_ns() // 1000
        told = next((given for given in self._given if given is not None and certainly <= given < first), None)
        self.is_unsure = self._has_siblings and told is None and (0 if self._vhost else self._emptied) < first - 1
        first = first if told is None else told + 1
        self._undelivered_from = first
        self._carried_up_to = first - 1
        self._is_first_known = told is not None
        self._used_before = used if self._is_first_known else None
        self._after_stop = after_stop
        if self._kept:
            self.passed_over += max(0, self._kept[0][1].number - first)
        if counts is not None and self._dropped_before is not None and not self.queue:  # it counts for its siblings
            self.overflowed = counts.dropped - self._dropped_before
            if self._has_siblings or first + dropped <= after_stop:
                self.overflowed -= dropped  # they are carried

    def runs_again(self, at_us: int) -> None:
        """The VM runs on here since `at_us`: if it did when the stop was reckoned, what it had got then was not seen.

        Where the counts tell how much it had got, it can still be told whether it lacks a frame, and not which.
        """
        used, counted = self._at_stop[1] if self._at_stop else None, self._given[1]
        if at_us > self._read_at_us:
            return
        self._is_first_known = False
        self._undelivered_from = self._after_stop
        self._used_before = None
        if used is not None and counted is not None:
            self._used_before = (used - counted + self._after_stop - 1) % USED_MODULUS

    def _counts_now(self) -> Counts | None:
        with suppress(Failed):
            return self._counters.read()
        return None

    def _number_of(self, given: Parcel | None, numbers: range) -> int | None:
        """Which of the frames with these numbers this is. None: none of them, or more than one."""
        if given is None:
            return None
        wanted, end = identity(given), given.frame[-TOLD_BY_BYTES:]
        alike = (parcel for _, parcel in self._since(numbers.start) if parcel.frame[-TOLD_BY_BYTES:] == end)
        found = [parcel.number for parcel in alike if parcel.number in numbers and identity(parcel) == wanted]
        return found[0] if len(found) == 1 else None

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
        """While the VM stands still: see how many frames QEMU has taken out of the tap, which it does not give it."""
        if self._undelivered_from is None or self._at_stop is None or self._has_siblings:
            return
        with suppress(Failed):  # the tap is gone
            last = self.reckoning.read_up_to(self.reads())
            # If the VM runs here again, QEMU first gives it what it has kept, and reads on then.
            if last is not None and self.used() == self._at_stop[1]:
                self._swallowed = max(self._swallowed, last - self._undelivered_from + 1)

    def missing(self, *, last_look: bool = False) -> list[Parcel] | None:
        """For a VM that runs on here: frames that were taken out of the tap while it stood still, and not given to it.

        Those are the first ones after what it had got. As many are missing as have come since, less those that it has
        got since; but a frame on its way to it counts as well, so that is the most. The frame that it got last tells
        the least: those up to that one, less those that it has got. None: they differ, or the last frame is not to be
        seen, so look again in a few ms, before others put frames into the tap. Where it cannot be told, `is_untold`.
        """
        first, before, used = self._undelivered_from, self._used_before, self.used()
        if first is None:
            return []
        now_us = time.time_ns() // 1000  # what comes between the two counts as on its way
        last_given = self.last_given()
        is_steady, counts = self.used() == used, self._counts_now()
        self._take_in()
        whole = self.reckoning.seen - first + 1 == len(since := self._since(first))
        came = [parcel for _, parcel in takewhile(lambda kept: kept[0] <= now_us, since[::-1])]
        fills = [self._fills(parcel.frame) for parcel in came]
        dropped = counts is None or counts.dropped != self._dropped_at_stop or self.watch.count_missed() != self._missed
        if before is None or used is None or dropped or not whole or None in fills:
            self.is_untold = True
            return []
        filled = list(accumulate((fill or 0 for fill in fills), initial=0))
        got = (used - before) % USED_MODULUS
        if got <= filled[-1] and not self._readable.poll(0) and self.free():
            self._most_missing = min(self._most_missing, filled[-1] - got)
        # Before it has got one, the last one is of before the stop, and may be like one that came since.
        last = self._number_of(last_given, range(first, first + len(came))) if is_steady and got else None
        if last is not None:
            self._least_missing = max(self._least_missing, filled[last - first + 1] - got)
        if self._least_missing < self._most_missing and not last_look:
            return None
        missing = self._most_missing
        self.is_untold = self._least_missing != missing or missing > (MOST_SWALLOWED if self._is_first_known else 0)
        filling = [parcel for parcel, fill in zip(came, fills, strict=True) if fill]
        return [] if self.is_untold else filling[:missing]

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
            "last_by_counts": self._given[1],
            "undelivered_from": self._undelivered_from,
        }

    def close(self) -> None:
        """Look no more."""
        self.watch.close()
        self._counters.close()
