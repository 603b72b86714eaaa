"""The format of a saved state: a header of 4096 bytes, then QEMU's stream to the end of the file.

    offset   bytes
    0        8      magic
    8        4      version, big-endian: a reader refuses every version but its own
    12       4      length of the record, big-endian
    16       ...    the record, a JSON object
    ...             zeros
    4064     32     SHA-256 of the 4064 bytes before

The header is written last: a file whose writing was cut off has no magic, and is refused whatever its name. A change of
the record's keys is a new version.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, fields

HEADER_BYTES = 4096
MAGIC = b"BASCULE\x01"
VERSION = 1
_CHECKSUM_BYTES = 32
_PREFIX = struct.Struct("!8sII")


class BadStateError(ValueError):
    """A file that is no saved state, or not one to be used. The text says why, as a clause about "it"."""


@dataclass(frozen=True, slots=True)
class StateIdentity:
    """Which state it is: of which VM, at which epoch, saved by which move, and what it can be loaded into."""

    vm_uuid: str
    vm_name: str
    epoch: int
    move_id: str
    machine: str
    accelerator: str


@dataclass(frozen=True, slots=True)
class StateHeader:
    """What a header says: the state's identity, and the length and SHA-256 (hexadecimal) of the stream after it."""

    identity: StateIdentity
    stream_bytes: int
    stream_sha256: str

    def encode(self) -> bytes:
        """The header's 4096 bytes. Raises ValueError when the identity is too long for them."""
        record = json.dumps(
            {**asdict(self.identity), "stream_bytes": self.stream_bytes, "stream_sha256": self.stream_sha256}
        ).encode()
        content = _PREFIX.pack(MAGIC, VERSION, len(record)) + record
        if len(content) > HEADER_BYTES - _CHECKSUM_BYTES:
            raise ValueError(f"a record of {len(record)} bytes does not fit into the header of a saved state")
        content = content.ljust(HEADER_BYTES - _CHECKSUM_BYTES, b"\0")
        return content + hashlib.sha256(content).digest()

    @classmethod
    def decode(cls, data: bytes) -> StateHeader:
        """Read the header of a saved state. Raises `BadStateError` for anything but one that `encode` has made."""
        if len(data) < HEADER_BYTES:
            raise BadStateError(f"it is too short: {len(data)} bytes")
        magic, version, record_bytes = _PREFIX.unpack_from(data)
        if magic != MAGIC:
            raise BadStateError("it is no saved state, or was never finished")
        if version != VERSION:
            raise BadStateError(f"it has format version {version}, and this Bascule reads {VERSION}")
        content, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if len(data) != HEADER_BYTES or hashlib.sha256(content).digest() != checksum:
            raise BadStateError("its header is damaged")
        try:
            record = json.loads(content[_PREFIX.size : _PREFIX.size + record_bytes])
            identity = StateIdentity(**{field.name: record.pop(field.name) for field in fields(StateIdentity)})
            return cls(identity=identity, **record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadStateError("its header does not say what a saved state must say") from error
