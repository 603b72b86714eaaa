"""How many buffers of a NIC QEMU has filled for the guest: the used index of its receive queue, within microseconds.

QEMU's monitor tells it as well (`x-query-virtio-queue-status`, unstable by its name), but an answer takes a turn of
QEMU's main loop, in which the next frame may come: at some thousand frames a second it never says which frames were in.
The index itself lies in the guest's memory (virtio 1.2, 2.7.8: the used ring), which root can read in QEMU's process,
whether its guest runs or not; QEMU says where (`gpa2hva`, a command for debugging).
"""

from __future__ import annotations

import os
import re
import struct
from contextlib import suppress
from typing import Self

from bascule.errors import BasculeError
from bascule.qemu.machine import QemuMachine

QUEUE_STATUS = "x-query-virtio-queue-status"
INDEX_OFFSET = 2  # struct virtq_used: flags, then the index
_ADDRESS = re.compile(r" is (0x[0-9a-f]+)")
_DEADLINE_S = 2.0


class ReceiveRing:
    """The used index of one NIC's first receive queue, modulo 65536."""

    def __init__(self, memory: int, at: int) -> None:
        """`memory`: a descriptor of the process's memory, which is closed with this; `at`: where the index lies."""
        self._memory = memory
        self._at = at

    @classmethod
    async def find(cls, machine: QemuMachine, nic: int) -> Self | None:
        """Ask QEMU where the index of NIC number `nic` lies. None: it does not tell, or its memory cannot be read."""
        where = {"path": f"/machine/peripheral/nic{nic}/virtio-backend", "queue": 0}
        with suppress(BasculeError, OSError, LookupError, ValueError):
            status = await machine.execute(QUEUE_STATUS, where, deadline_s=_DEADLINE_S)
            if not status["vring-used"]:  # no driver has set it up
                return None
            line = f"gpa2hva {status['vring-used']:#x}"
            said = await machine.execute("human-monitor-command", {"command-line": line}, deadline_s=_DEADLINE_S)
            if (found := _ADDRESS.search(said)) is None:
                return None
            ring = cls(os.open(f"/proc/{machine.record.pid}/mem", os.O_RDONLY), int(found[1], 16) + INDEX_OFFSET)
            told, read = int(status["used-idx"]), ring.used()
            if read is not None and (read - told) % (1 << 16) < 1 << 15:  # it may have gone on meanwhile
                return ring
            ring.close()
        return None

    def used(self) -> int | None:
        """The index now. None: the process has gone."""
        try:
            return int(struct.unpack("<H", os.pread(self._memory, 2, self._at))[0])
        except (OSError, struct.error):
            return None

    def close(self) -> None:
        """Read no more."""
        os.close(self._memory)
