"""What a guest was seen to have got while its VM ran: the number of a frame, and its queue's used index then. Pure.

A reference is noted by two signs. The guest's queue shows the frame that it got last. Or nothing moves: for some looks
no frame came, none waits, the guest has empty buffers and its used index stays, so that it has got all. The second says
so only while the VM runs: of one that stands still QEMU may hold a frame.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from bascule.network.handover.reckoning import USED_MODULUS

KEPT = 500  # some seconds of looks: a stop may be heard late
STILL_LOOKS = 5  # as long somebody may keep a frame in his hands, on a busy host
KEEPS_UP_FRAMES = 256  # with nothing waiting in the tap, the guest has got all but fewer


class Reference(NamedTuple):
    """At `at_us` the guest had got the frames up to `number`, and the used index was `used`.

    `is_shown`: the queue showed that frame.
    """

    at_us: int
    number: int
    used: int
    is_shown: bool


class References:
    """Those of one queue, the last ones."""

    def __init__(self) -> None:
        self._noted: deque[Reference] = deque(maxlen=KEPT)
        self._in_order_from = 0
        self._still: tuple[int, int] | None = None
        self._still_looks = 0

    def first_worth_a_look(self, seen: int) -> int:
        """The lowest number of the frame that the guest may have got last, where nothing waits and `seen` have come."""
        return max(self._in_order_from, seen - KEEPS_UP_FRAMES)

    def shown(self, at_us: int, number: int, used: int) -> None:
        """The queue shows frame `number` as the last one."""
        self._noted.append(Reference(at_us, number, used, is_shown=True))

    def at_rest(self, at_us: int, seen: int, used: int) -> None:
        """`seen` frames have come, none of them waits, and the guest has buffers for more."""
        self._still_looks = self._still_looks + 1 if (seen, used) == self._still else 0
        self._still = seen, used
        if self._still_looks >= STILL_LOOKS:
            self._noted.append(Reference(at_us, seen, used, is_shown=False))

    def moved(self) -> None:
        """Some may wait."""
        self._still = None

    def forget(self, seen: int) -> None:
        """Of the `seen` frames some never came into the tap, or others came unseen: what was noted leads no further."""
        self._noted.clear()
        self._in_order_from = seen

    def last_before(self, stopped_us: int) -> Reference | None:
        """The last one of a VM that ran."""
        return next((each for each in reversed(self._noted) if each.at_us <= stopped_us), None)

    def shown_since(self, stopped_us: int) -> list[tuple[int, int]]:
        """The numbers of the frames that the queue showed since, and the used index of each."""
        return [(each.number, each.used) for each in self._noted if each.is_shown and each.at_us > stopped_us]


def got_up_to(reference: Reference, used: int) -> int:
    """The number of the last frame that the guest has got, if each that came since fills one buffer."""
    return reference.number + (used - reference.used) % USED_MODULUS
