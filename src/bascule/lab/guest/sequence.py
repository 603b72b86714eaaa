"""Numbered records on a disk, so that a guest that ran twice at once is found out.

The appender is a process of its own, since each record waits for the disk. It tells the workload through a pipe how
far it came. Reads and writes bypass the page cache: only so would it see that somebody else writes to the disk.
"""

from __future__ import annotations

import os
import struct
import time

from bascule.lab.guest.sequence_record import RECORD_BYTES, Record, unpack

DEVICE = "/dev/vda"
_PERIOD_NS = 20_000_000
_NEWS = struct.Struct("<QQ")


class Disk:
    """A block device (or a file, in tests) as slots of one record each."""

    def __init__(self, path: str, flags: int = os.O_DIRECT | os.O_DSYNC) -> None:
        self._descriptor = os.open(path, os.O_RDWR | flags)
        self.slots = os.lseek(self._descriptor, 0, os.SEEK_END) // RECORD_BYTES
        if not self.slots:
            raise ValueError(f"{path} has no room for a record")
        self._buffer = self._aligned_buffer()

    def _aligned_buffer(self) -> memoryview:
        """A buffer that the device takes: its alignment can only be found by trying."""
        room = memoryview(bytearray(RECORD_BYTES + 4096))
        for start in range(0, 4096, 16):
            buffer = room[start : start + RECORD_BYTES]
            try:
                os.preadv(self._descriptor, [buffer], 0)
            except OSError:
                continue
            return buffer
        raise OSError("the disk cannot be read with any alignment")

    def read(self, slot: int) -> Record | None:
        """The record in a slot; None if there is none."""
        os.preadv(self._descriptor, [self._buffer], slot * RECORD_BYTES)
        return unpack(bytes(self._buffer))

    def write(self, slot: int, record: Record) -> None:
        """Write a record; when this returns it is on the disk."""
        self._buffer[:] = record.pack()
        if os.pwritev(self._descriptor, [self._buffer], slot * RECORD_BYTES) != RECORD_BYTES:
            raise OSError(f"record {record.number} was written in part")

    def close(self) -> None:
        """Close the disk."""
        os.close(self._descriptor)


class Appender:
    """Continues the sequence of a disk. `conflicts` counts what only a second writer can have done."""

    def __init__(self, disk: Disk, boot_id: bytes) -> None:
        self._disk = disk
        self._boot_id = boot_id
        self._last = self._find_last()
        self.conflicts = 0

    @property
    def number(self) -> int:
        """The number of the last record; -1 before the first."""
        return -1 if self._last is None else self._last.number

    def _find_last(self) -> Record | None:
        """The last record, by halving: numbers rise by one from slot to slot until the ring's seam."""
        first = self._disk.read(0)
        if first is None:
            return None
        low, high, last = 0, self._disk.slots, first
        while high - low > 1:
            middle = (low + high) // 2
            record = self._disk.read(middle)
            if record is not None and record.number == first.number + middle:
                low, last = middle, record
            else:
                high = middle
        return last

    def append(self) -> None:
        """Write the next record, after a look whether the last one and the next place are as we left them."""
        slots, number = self._disk.slots, self.number + 1
        if self._last is not None:
            found = self._disk.read(self._last.number % slots)
            if found is None or found.check != self._last.check:
                self.conflicts += 1
        occupant = self._disk.read(number % slots)
        if occupant is not None and occupant.number >= number:
            self.conflicts += 1
        previous = 0 if self._last is None else self._last.check
        record = Record(
            boot_id=self._boot_id,
            number=number,
            uptime_ns=time.monotonic_ns(),
            conflicts=self.conflicts,
            nonce=os.urandom(8),
            previous=previous,
        )
        self._disk.write(number % slots, record)
        self._last = record


class Progress:
    """What the appender's process last said."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.number = -1
        self.conflicts = 0
        self.running = True

    def ready(self) -> bool:
        """Take the news; False once the appender is gone."""
        news = os.read(self.descriptor, 64 * _NEWS.size)
        if not news:
            self.running = False
            return False
        self.number, self.conflicts = _NEWS.unpack_from(news, len(news) - _NEWS.size)
        return True


def start(boot_id: bytes) -> Progress:
    """Start the appender's process."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        try:
            _run(Appender(Disk(DEVICE), boot_id), writer)
        except (OSError, ValueError) as error:
            print(f"bascule-guest: the sequence on {DEVICE} ends: {error}", flush=True)
        os._exit(1)
    os.close(writer)
    os.set_blocking(reader, False)
    return Progress(reader)


def _run(appender: Appender, writer: int) -> None:
    """Append for ever, fifty a second at most."""
    while True:
        started_ns = time.monotonic_ns()
        appender.append()
        # Atomic, being shorter than PIPE_BUF; it ends this process when the workload is gone.
        os.write(writer, _NEWS.pack(appender.number, appender.conflicts))
        rest_ns = _PERIOD_NS - (time.monotonic_ns() - started_ns)
        if rest_ns > 0:
            time.sleep(rest_ns / 1e9)
