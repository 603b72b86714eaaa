"""When data arrived: the kernel's own timestamp, read on the monotonic clock.

The kernel stamps a frame when it comes in (SO_TIMESTAMPNS), so that it does not matter how much later a busy machine
lets the probe read it. That stamp is of the wall clock, which can be set; the probe's times are monotonic. Just after
each read both clocks are read together and the stamp is converted by their difference. When that difference has jumped
since the read before, somebody has set the wall clock meanwhile, nobody knows which side of the jump the stamp is
from, and the time of reading stands in: late, never early. Slewing is at most 500 ppm of the stamp's age, and two
clocks read at once are less than 20 us apart: that is the error. On TCP the stamp is that of the last frame of what
was read. The kernel begins to stamp some moments after the first socket has asked for it; until then its stamps are of
the reading.

Times of *sending* are read just before the system call: round trips include this machine's way out.
"""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress

SO_TIMESTAMPNS_NEW = 64  # asm-generic/socket.h: 64-bit times on every architecture (Linux 5.1)
ANCILLARY_BYTES = 64
_TIMESPEC = struct.Struct("=qq")
_NS_PER_S = 1_000_000_000
_GOOD_SANDWICH_NS = 20_000
_JUMP_NS = 1_000_000  # larger than two bad sandwiches; a smaller jump is an error of that size in one batch
_MOST_SLEWING = 0.001
_TRIES = 4


class ArrivalClock:
    """Converts one socket's timestamps. Call `read_clocks` after reading, then `arrival_ns` for each thing read."""

    def __init__(self, sock: socket.socket) -> None:
        with suppress(OSError):  # without stamps the time of reading is taken
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1)
        self._offset_ns = 0
        self._now_ns = 0
        self._has_jumped = False
        self.read_clocks()

    def read_clocks(self) -> None:
        """Read both clocks as nearly at once as can be: the wall clock between two readings of the monotonic one."""
        earlier_ns, earlier_offset_ns = self._now_ns, self._offset_ns
        narrowest = _NS_PER_S
        for _ in range(_TRIES):  # more than one only when something came in between
            before = time.monotonic_ns()
            wall = time.time_ns()
            after = time.monotonic_ns()
            if after - before < narrowest:
                narrowest = after - before
                self._offset_ns = (before + after) // 2 - wall
            if narrowest <= _GOOD_SANDWICH_NS:
                break
        self._now_ns = after
        drift = abs(self._offset_ns - earlier_offset_ns)
        self._has_jumped = drift > _JUMP_NS + _MOST_SLEWING * (after - earlier_ns)

    def arrival_ns(self, ancillary: list[tuple[int, int, bytes]]) -> int:
        """Return the monotonic time at which what came with this ancillary data had arrived."""
        if not self._has_jumped:
            for level, kind, data in ancillary:
                if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS_NEW and len(data) == _TIMESPEC.size:
                    seconds, nanoseconds = _TIMESPEC.unpack(data)
                    return min(int(seconds * _NS_PER_S + nanoseconds) + self._offset_ns, self._now_ns)
        return self._now_ns
