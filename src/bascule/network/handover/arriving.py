"""The destination's side of the hand-over, one tap: frames wait in it for the VM, those of the source before its own.

    occupied  a decoy is QEMU's first frame: until it runs its guest it reads one and no more, which had better be ours
    drawn     the source has stopped: what the tap gathered so far is thrown away, the source's frames are put in, and
              frames come here directly from now on. What is carried later is put before those
    running   QEMU is told to run and empties the tap: what is carried now goes to the end
    ran       QEMU has said so: until then what came directly may have to go back

What the source sends again, because it was not answered, is told by its number, and not given twice either.

Of a tap with several queues, only the first is in use when QEMU starts. It takes one frame of each other as well, as
soon as it has loaded. So before the VM runs all that waits is put in again behind a decoy for each queue, which brings
each flow into one queue as well. What QEMU has taken by then it gives to the guest first; or it throws it away, where
the kernel's vhost-net serves the guest once it runs. Such a frame does not wait any more, and is put in again.

A frame that was flooded to both hosts (broadcast, or a bridge that does not learn) came here directly as well: it is
told by its bytes, and not given twice.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from bascule.errors import Failed
from bascule.network.frames import ETHERTYPE_RARP
from bascule.network.handover.counters import TapCounters
from bascule.network.handover.parcel import Parcel, identity
from bascule.network.handover.watch import TapWatch
from bascule.network.tap import VIRTIO_HEADER_BYTES, Tap

MOST_REORDERED = 500  # so many can be put in order in some 5 ms; with more waiting, order is given up
ORDERING_TRIES = 5
KEPT_FRAMES = 20_000
KEPT_NUMBERS = 20_000
KEPT_BYTES = 64 << 20
_ALL = 1 << 20
_RARP = ETHERTYPE_RARP.to_bytes(2)  # by which hosts announce a VM, maybe behind a VLAN's tag, and guests do not
GSO_TYPE = 1  # where a virtio header tells that a frame is to be cut (linux/virtio_net.h, struct virtio_net_hdr)

# QEMU reads it with the header of 10 bytes that a tap has before the guest's state is loaded, and gives it to the guest
# as one of 12 where the driver has negotiated that: without its first two bytes it is to a group address that no bridge
# forwards and no guest listens to (IEEE 802.1Q, table 8-1), and with them to a group that nobody is in. The rest is of
# zeros, but for a local experimental protocol (IEEE 802).
_DECOY = bytes.fromhex("01000180c200000efe000000") + b"\x88\xb5\x88\xb5" + b"bascule".ljust(44, b"\0")
DECOY = Parcel(0, 0, bytes(VIRTIO_HEADER_BYTES), _DECOY)

# One for each queue: a flow of its own, by which the kernel chooses the queue, to the same group and from nobody, in an
# IPv4 packet that no host takes: its time to live is over and its checksum wrong.
_FLOW_DECOY = bytes.fromhex("0180c200000e0efe0000000108004500001c000000000011ffff7f0000017f000001")


def flow_decoy(queue: int) -> bytes:
    """A frame that belongs into one of several queues, once it was said by it as well."""
    return _FLOW_DECOY + struct.pack("!HHHH", 9, 9 + queue, 8, 0).ljust(26, b"\0")


@dataclass(slots=True)
class Tally:
    """What became of the frames of one tap, or of all."""

    carried: int = 0  # put into this tap for the source
    waited: int = 0  # came here directly while the VM stood still
    late: int = 0  # of those carried: after the VM ran, so not before others
    seen_here: int = 0  # carried, and had come here directly as well
    lost: int = 0  # found the tap full, or could not be put in

    def add(self, other: Tally) -> None:
        """Sum up."""
        self.carried += other.carried
        self.waited += other.waited
        self.late += other.late
        self.seen_here += other.seen_here
        self.lost += other.lost


class ArrivingTap:
    """One tap of a VM that is about to arrive."""

    def __init__(self, tap: Tap, nic: int, *, vhost: bool = False, mac: bytes = b"") -> None:
        """`vhost`: the kernel's vhost-net will serve it; `mac`: the VM's. Raises `Failed` if it cannot be watched."""
        self.nic = nic
        self.is_elsewhere = not mac  # the VM's other host has announced it since the draw, if that can be seen
        self._mac = mac
        self.tally = Tally()
        self.watch = TapWatch(tap.name, nic)
        self.drawn = False
        self.running = False
        self._vhost = vhost
        self._tap = tap
        self._counters = TapCounters(tap.name)
        self._dropped_before = 0
        self._carried: list[Parcel] = []  # in the tap, in order, before those that came directly
        self._numbers: set[int] = set()  # of the frames that the source has sent, those above `_known_up_to`
        self._known_up_to = 0
        self._direct: Counter[int] = Counter()  # by `identity`
        self._kept: list[Parcel] = []  # what came directly, as long as it may have to go back
        self._kept_bytes = 0
        self.came = 0  # directly, for the VM, as long as they may have to go back
        self._ran = False

    def occupy(self) -> None:
        """Let QEMU have the decoy as its one frame; before it starts."""
        self._tap.take_queued(_ALL)
        with self._tap.first_queue_only():
            self.watch.put(DECOY)

    def draw(self, parcels: Sequence[Parcel], *, keep: bool = False) -> None:
        """Frames come here from now on, after `parcels` of the source. `keep`: what waits in the tap is the VM's."""
        self.drawn = True
        self.watch.begin()
        if not keep:
            self._tap.take_queued(_ALL)
        for _ in self.watch.read():
            pass
        self._dropped_before = self._counters.read().dropped
        self.carry(parcels)

    def carry(self, parcels: Sequence[Parcel]) -> None:
        """Put frames of the source in, before those that came directly if the VM does not run yet; each number once."""
        self.look()
        fresh = [each for each in parcels if self._is_new(each.number) and not self._came_directly(each)]
        if not fresh:
            return
        self.tally.carried += len(fresh)
        if self.running:
            self.tally.late += len(fresh)
            self._put(fresh)
        elif (
            self.tally.waited == 0
            and len(self._carried) <= MOST_REORDERED
            and (not self._carried or fresh[0].number > self._carried[-1].number)
        ):
            self._put(fresh)
            self._carried += fresh
        elif len(self._carried) + self.tally.waited > MOST_REORDERED:
            self.tally.late += len(fresh)
            self._put(fresh)
        else:
            self._put_before(fresh)

    def _put_before(self, fresh: Sequence[Parcel], *, at_last: bool = False) -> None:
        """Take out what waits, and put it back in its order: once more if something came in between.

        `at_last`: a tap of several queues, all of them in use, before the VM runs.
        """
        not_in_yet, decoys = list(fresh), at_last
        for _ in range(ORDERING_TRIES):
            waited = self.tally.waited
            known = [*self._carried, *self._kept]
            waiting = [Parcel(self.nic, 0, *queued) for queued in self._tap.take_queued(_ALL)]
            if decoys:
                self._occupy_queues()
                decoys = False
            self.look()
            taken = self._no_more_there(known, waiting) if at_last and self._vhost else []
            self._put(self._in_order([*waiting, *taken, *not_in_yet], fresh))
            not_in_yet = []
            self.look()
            if self.tally.waited == waited:
                break
        self._carried = sorted((*self._carried, *fresh), key=lambda parcel: parcel.number)

    def _in_order(self, waiting: Sequence[Parcel], fresh: Sequence[Parcel]) -> list[Parcel]:
        """First what was carried, by its number at the source; then what came directly, in the order in which it came.

        What is known of neither stays behind what it was behind: the kernel has cut it from something larger, or it
        came when the watch had no room.
        """
        places: defaultdict[int, deque[tuple[int, int]]] = defaultdict(deque)
        for parcel in sorted((*self._carried, *fresh), key=lambda parcel: parcel.number):
            places[identity(parcel)].append((0, parcel.number))
        for parcel in self._kept:
            places[identity(parcel)].append((1, parcel.number))

        placed: list[tuple[tuple[int, int], Parcel]] = []
        place = (-1, 0)
        for parcel in waiting:
            if known := places[identity(parcel)]:
                place = known.popleft()
            placed.append((place, parcel))
        return [parcel for _, parcel in sorted(placed, key=lambda pair: pair[0])]

    def _occupy_queues(self) -> None:
        """Let QEMU find a decoy in each queue that it has not read yet; in the first it had one when it started."""
        for queue in range(1, len(self._tap.descriptors())):
            frame = flow_decoy(queue)
            with suppress(Failed):  # then the kernel chooses by the flow alone, and the guest gets one more of no use
                self._tap.inject(frame, queue)
            self.watch.put(Parcel(self.nic, 0, bytes(VIRTIO_HEADER_BYTES), frame))

    def _no_more_there(self, known: Sequence[Parcel], waiting: Sequence[Parcel]) -> list[Parcel]:
        """Those frames that should wait and do not, one a queue at most. Of one that was cut the pieces wait."""
        there = Counter(map(identity, waiting))
        gone = []
        for parcel in known:
            told = identity(parcel)
            if there[told] > 0:
                there[told] -= 1
            elif not parcel.header[GSO_TYPE]:
                gone.append(parcel)
        return gone if len(gone) < len(self._tap.descriptors()) else []

    def _put(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            if not self.watch.put(parcel):
                self.tally.lost += 1

    def look(self) -> None:
        """Take in what came directly."""
        for _at_us, parcel in self.watch.read():
            self._direct[identity(parcel)] += 1
            is_own = parcel.frame[6:12] == self._mac
            self.is_elsewhere |= is_own and self.drawn and _RARP in (parcel.frame[12:14], parcel.frame[16:18])
            if not self.running:
                self.tally.waited += 1
            if self._ran or is_own:
                continue
            self.came += 1
            if len(self._kept) < KEPT_FRAMES and self._kept_bytes < KEPT_BYTES:
                self._kept.append(parcel._replace(number=self.came))
                self._kept_bytes += len(parcel.frame)

    def _is_new(self, number: int) -> bool:
        if number in self._numbers or number <= self._known_up_to:
            return False
        self._numbers.add(number)
        if len(self._numbers) > KEPT_NUMBERS:  # a batch is at most a few thousand late
            self._known_up_to = sorted(self._numbers)[KEPT_NUMBERS // 2]
            self._numbers = {each for each in self._numbers if each > self._known_up_to}
        return True

    def _came_directly(self, parcel: Parcel) -> bool:
        if self._direct[identity(parcel)] <= 0:
            return False
        self._direct[identity(parcel)] -= 1
        self.tally.seen_here += 1
        return True

    def run(self) -> None:
        """The VM is about to run here, if QEMU does as it is told.

        Its state is loaded, and only since then are all queues in use: what waited in the first is spread over them.
        """
        try:
            self.look()
            if len(self._tap.descriptors()) > 1 and len(self._carried) + self.tally.waited <= MOST_REORDERED:
                self._put_before((), at_last=True)
        finally:
            self.running = True

    def ran(self) -> None:
        """It runs: nothing has to go back."""
        self._ran = True
        self._kept, self._kept_bytes = [], 0

    def take_back(self) -> list[Parcel]:
        """What came directly and has not been taken back, for a VM that does not run here."""
        self.look()
        taken, self._kept, self._kept_bytes = self._kept, [], 0
        return taken

    def count(self) -> Tally:
        """What became of the frames so far."""
        if self.drawn:
            dropped = self._counters.read().dropped - self._dropped_before
            return Tally(
                self.tally.carried,
                self.tally.waited,
                self.tally.late,
                self.tally.seen_here,
                self.tally.lost + max(0, dropped),
            )
        return self.tally

    def close(self) -> None:
        """Look no more."""
        self.watch.close()
        self._counters.close()
