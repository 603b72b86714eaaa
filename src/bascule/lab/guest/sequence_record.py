"""The numbered records that a guest writes to its disk: how one looks, and where it lies.

    magic 8 | boot id 16 | number 8 | uptime in ns 8 | conflicts 8 | nonce 8 | previous check 4 | own check 4 | zeros

Record `number` lies in slot `number % slots`, so the disk is a ring. The nonce makes two records with the same number
differ when two copies of a guest write them, and since each record names the check of the one before, the place
where a second writer came in stays visible; `conflicts` is how often the guest saw one itself. The guest writes this,
the host reads it; both use this module.
"""

from __future__ import annotations

import struct
import zlib

RECORD_BYTES = 512
_MAGIC = b"BASCSEQ1"
_FIELDS = struct.Struct("<8s16sQQQ8sI")
_CHECK = struct.Struct("<I")


class Record:
    """One record; `check` is its own CRC, `previous` that of the record before (0 for the first)."""

    __slots__ = ("boot_id", "check", "conflicts", "nonce", "number", "previous", "uptime_ns")

    def __init__(
        self, *, boot_id: bytes, number: int, uptime_ns: int, conflicts: int, nonce: bytes, previous: int
    ) -> None:
        self.boot_id = boot_id
        self.number = number
        self.uptime_ns = uptime_ns
        self.conflicts = conflicts
        self.nonce = nonce
        self.previous = previous
        self.check = zlib.crc32(self._fields())

    def _fields(self) -> bytes:
        return _FIELDS.pack(
            _MAGIC, self.boot_id, self.number, self.uptime_ns, self.conflicts, self.nonce, self.previous
        )

    def pack(self) -> bytes:
        """The record as RECORD_BYTES bytes."""
        return (self._fields() + _CHECK.pack(self.check)).ljust(RECORD_BYTES, b"\0")


def unpack(data: bytes) -> Record | None:
    """The record in `data`, or None if there is none or it is damaged."""
    magic, boot_id, number, uptime_ns, conflicts, nonce, previous = _FIELDS.unpack_from(data)
    if magic != _MAGIC:
        return None
    record = Record(
        boot_id=boot_id, number=number, uptime_ns=uptime_ns, conflicts=conflicts, nonce=nonce, previous=previous
    )
    return record if _CHECK.unpack_from(data, _FIELDS.size)[0] == record.check else None
