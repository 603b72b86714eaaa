"""What a guest's NIC has got: read out of the guest's memory, within microseconds, running or not.

Whoever fills its receive queue, QEMU or the kernel's vhost-net. QEMU's monitor tells the used index as well
(`x-query-virtio-queue-status`, unstable by its name), but an answer takes a turn of QEMU's main loop, in which the next
frame may come: at some thousand frames a second it never says which frames were in. And it does not know what vhost-net
has filled. The receive queue itself lies in the guest's memory (virtio 1.2, 2.7, the split virtqueue), which root can
read in QEMU's process; QEMU says where (`gpa2hva`, a command for debugging).
"""

from __future__ import annotations

import os
import re
import struct
from contextlib import suppress
from typing import NamedTuple, Self

from bascule.errors import BasculeError
from bascule.qemu.machine import QemuMachine

QUEUE_STATUS = "x-query-virtio-queue-status"
HEADER_BYTES = 12  # struct virtio_net_hdr_v1, before each frame
LARGEST_BYTES = (1 << 17) + HEADER_BYTES
HIGH_MEMORY = 1 << 32  # a PC's memory is one piece below this address and one above
_INDEX = 2  # both rings: flags, then the index, then the entries
_ENTRIES = 4
_DESCRIPTOR = struct.Struct("<QIHH")  # struct virtq_desc: address, length, flags, next
_USED = struct.Struct("<II")  # struct virtq_used_elem: descriptor, length
_ADDRESS = re.compile(r" is (0x[0-9a-f]+)")
_DEADLINE_S = 2.0
_TRIES = 5


class Place(NamedTuple):
    """Where the three parts of a queue of `size` entries lie, as addresses of QEMU's process.

    `guest_offset`: what to add to an address of the guest on the same side of `HIGH_MEMORY`, which `high` tells.
    """

    size: int
    descriptors: int
    available: int
    used: int
    guest_offset: int
    high: bool


class ReceiveRing:
    """One of a NIC's receive queues."""

    def __init__(self, memory: int, place: Place) -> None:
        """`memory`: a descriptor of the process's memory, which is closed with this."""
        self._memory = memory
        self._place = place

    @classmethod
    async def find(cls, machine: QemuMachine, nic: int, queue: int = 0) -> Self | None:
        """Ask QEMU where a receive queue of NIC number `nic` lies. None: it does not tell, or cannot be read."""
        # A receive queue and one to transmit in turn (virtio 1.2, 5.1.2).
        where = {"path": f"/machine/peripheral/nic{nic}/virtio-backend", "queue": 2 * queue}
        with suppress(BasculeError, OSError, LookupError, ValueError):
            status = await machine.execute(QUEUE_STATUS, where, deadline_s=_DEADLINE_S)
            guest = [int(status[f"vring-{part}"]) for part in ("desc", "avail", "used")]
            if not all(guest):  # no driver has set it up
                return None
            descriptors, available, used = [await _host_address(machine, address) for address in guest]
            size, offset, high = int(status["vring-num"]), used - guest[2], guest[2] >= HIGH_MEMORY
            place = Place(size, descriptors, available, used, offset, high)
            ring = cls(os.open(f"/proc/{machine.record.pid}/mem", os.O_RDONLY), place)
            if any(ring.free() is not None for _ in range(_TRIES)):
                return ring
            ring.close()
        return None

    def used(self) -> int | None:
        """How many buffers QEMU has filled, modulo 65536. None: the process has gone."""
        try:
            return int.from_bytes(self._read(self._place.used + _INDEX, 2), "little")
        except (OSError, ValueError):
            return None

    def free(self) -> int | None:
        """How many empty buffers the guest has put in. None: the process has gone, or the indices make no sense.

        So they do also where the queue has gone on between reading the one and the other.
        """
        try:
            used, available = self._indices()
        except (OSError, ValueError):
            return None
        free = (available - used) % (1 << 16)
        return free if free <= self._place.size else None

    def _indices(self) -> tuple[int, int]:
        """The used and the available one."""
        used, available = (
            int.from_bytes(self._read(part + _INDEX, 2), "little") for part in (self._place.used, self._place.available)
        )
        return used, available

    def given(self, last: int) -> list[tuple[int, bytes]]:
        """Of the `last` buffers that were filled, those that are still there, the newest first.

        Each with the used index once it had been filled in, and as what lies in it: a virtio header of 12 bytes, and
        the frame. Not those of which a frame fills several, nor those that the guest has put in again. None at all
        where the queue went on meanwhile.
        """
        place = self._place
        try:
            used, available = indices = self._indices()
            there = struct.unpack(f"<{place.size}H", self._read(place.available + _ENTRIES, 2 * place.size))
            free = (available - used) % (1 << 16)
            if free > place.size:
                return []
            taken = {there[(used + at) % place.size] for at in range(free)}  # by others than what is looked for
            found = []
            for index in range(used, used - min(last, place.size), -1):
                entry = place.used + _ENTRIES + (index - 1) % place.size * _USED.size
                descriptor, length = _USED.unpack(self._read(entry, _USED.size))
                if descriptor < place.size and descriptor not in taken and (filled := self._filled(descriptor, length)):
                    found.append((index % (1 << 16), filled))
                taken.add(descriptor)
            return found if self._indices() == indices else []
        except (OSError, ValueError):
            return []

    def _filled(self, descriptor: int, length: int) -> bytes | None:
        """What lies in one buffer. None: not a whole frame."""
        place = self._place
        where = place.descriptors + descriptor * _DESCRIPTOR.size
        address, room, flags, _ = _DESCRIPTOR.unpack(self._read(where, _DESCRIPTOR.size))
        fits = HEADER_BYTES < length <= min(room, LARGEST_BYTES) and not flags & ~2  # 2: QEMU may write to it
        if not fits or (address >= HIGH_MEMORY) is not place.high:
            return None
        filled = self._read(address + place.guest_offset, length)
        return filled if filled[10:HEADER_BYTES] in (b"\1\0", b"\0\0") else None  # num_buffers

    def _read(self, address: int, length: int) -> bytes:
        found = os.pread(self._memory, length, address)
        if len(found) != length:
            raise ValueError("the process has gone")
        return found

    def close(self) -> None:
        """Read no more."""
        os.close(self._memory)


async def _host_address(machine: QemuMachine, guest_address: int) -> int:
    line = f"gpa2hva {guest_address:#x}"
    said = await machine.execute("human-monitor-command", {"command-line": line}, deadline_s=_DEADLINE_S)
    if (found := _ADDRESS.search(said)) is None:
        raise ValueError(said)
    return int(found[1], 16)
