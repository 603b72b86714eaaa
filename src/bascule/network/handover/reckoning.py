"""Which of the frames that came to a tap its guest has got, when its VM has stopped. Pure.

Three numbers count the same stream, each seen at other moments:

    seen       frames that came to the tap, counted by the watch
    read       frames that QEMU has taken out of the tap, by the tap's own counter
    used       buffers that QEMU has filled for the guest, the used index of its receive queue (modulo 65536)

While the VM runs, `seen - read` is constant whenever nothing waits in the tap, and `used - read` is constant as long as
each frame fills one buffer; both constants are learned by sampling. At STOP the numbers part: QEMU may read one frame
into a queue of its own while it stops the vCPUs, and drop it, and reads one more as soon as its main loop goes on,
which it keeps for a guest that never runs here again. Seen in moves at 1 kHz on QEMU 7.2 and 10.0: always the second,
and the first in one of ten. The frames between what the guest has got and what is still to be read are those that QEMU
swallowed, and they are found back here.

A sample may catch a frame between two counts: seen but not yet in the tap, or read but not yet given to the guest.
Each makes its difference wrong to one side only, so the smallest `seen - read` and the largest `used - read` are right.
A sample that was never caught right makes delivered frames too many, never too few: a frame is lost, none comes twice.
At 10,000 frames a second that was seen in one of 120 moves, so `leaving` rather believes the frame that the guest got
last.

A guest that cannot keep up never empties its tap. Then the smallest `seen - read` of all samples, in which `seen` was
counted last, is what the constant cannot exceed: of the frames that wait at STOP those are known that came beyond it.

What is certain without `used`: a frame that came after STOP, by the kernel's clock and QEMU's, which are one, was not
delivered; nor was one that is not even read. Without `used` the others count as delivered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bascule.network.frames import BROADCAST

USED_MODULUS: Final = 1 << 16
VLAN_TAG: Final = b"\x81\x00"  # QEMU's filter knows no other
ONE_BUFFER_BYTES: Final = 1518  # an Ethernet frame with a VLAN tag; guests' buffers hold at least that


def fills_one_buffer(frame: bytes, mac: bytes) -> bool:
    """Whether it is certain that QEMU gives this frame to the guest in one buffer.

    Not so for multicast, others' frames and those of a VLAN, which the guest's filter may turn away, and not for large
    ones.
    """
    return len(frame) <= ONE_BUFFER_BYTES and is_to(frame, mac) and frame[12:14] != VLAN_TAG


def is_to(frame: bytes, mac: bytes) -> bool:
    """Whether a frame is to this address, or to all."""
    return frame[:6] in (mac, BROADCAST)


@dataclass(slots=True)
class Reckoning:
    """The counts of one tap. Numbers of frames are those of the watch, from 1.

    `ahead`: `seen - read` with nothing waiting, `ahead_at_most`: with whatever waits; `filled`: `used - read`,
    unwrapped. None: not known.
    """

    seen: int = 0
    uncertain: int = 0  # the last frame of which it is not certain that it fills one buffer
    ahead: int | None = None
    ahead_at_most: int | None = None
    filled: int | None = None
    _used: int | None = None  # the last one, unwrapped

    def came(self, *, one_buffer: bool) -> int:
        """Count one frame that came. Return its number."""
        self.seen += 1
        if not one_buffer:
            self.uncertain = self.seen
            self.filled = None
        return self.seen

    def nothing_waits(self, read: int) -> None:
        """All frames that were seen have been read, and `read` in all."""
        ahead = self.seen - read
        self.ahead = ahead if self.ahead is None else min(self.ahead, ahead)

    def some_may_wait(self, read: int) -> None:
        """`read` frames had been read, before `seen` was counted."""
        ahead = self.seen - read
        self.ahead_at_most = ahead if self.ahead_at_most is None else min(self.ahead_at_most, ahead)

    def used_at(self, read: int, used: int) -> None:
        """The used index was `used` while `read` frames had been read."""
        filled = self._unwrapped(used) - read
        last_read = self.read_up_to(read)
        if last_read is not None and last_read >= self.uncertain:
            self.filled = filled if self.filled is None else max(self.filled, filled)

    def forget(self) -> None:
        """Frames found the tap full: they were seen and are never read."""
        self.ahead = self.ahead_at_most = self.filled = None

    def read_up_to(self, read: int) -> int | None:
        """The number of the last frame that was read when the tap's counter said `read`."""
        return None if self.ahead is None else read + self.ahead

    def read_at_most_up_to(self, read: int) -> int | None:
        """As `read_up_to`, and where that is not known a number after which certainly none was read."""
        ahead = self.ahead if self.ahead is not None else self.ahead_at_most
        return None if ahead is None else read + ahead

    def delivered_up_to(self, used: int) -> int | None:
        """The number of the last frame that the guest has got, by the used index after STOP. None: not known."""
        if self.ahead is None or self.filled is None:
            return None
        return self._unwrapped(used) - self.filled + self.ahead

    def _unwrapped(self, used: int) -> int:
        if self._used is None:
            self._used = used
        else:
            self._used += (used - self._used) % USED_MODULUS
        return self._used
