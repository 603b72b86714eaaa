"""Frames on their way from one host's tap to the other's: one record a frame, and a batch of them as bytes.

A frame travels with its virtio header (linux/virtio_net.h), which says what of its checksum and segmentation is still
to be done: without it a frame larger than the MTU, or one whose checksum the sender's kernel left to the hardware,
would be worthless. On a tap that header has 10 or 12 bytes, by what the guest's driver negotiated; between hosts it
always has 10, since the two bytes more (`num_buffers`) say nothing here.

The batch, in network byte order, the fields of the virtio header as they came (both hosts are of one kind):

    magic "BSF1", then for each frame: NIC (1 byte), its number there (4), length of what follows (4),
    virtio header (10), Ethernet frame
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bascule.errors import Refused
from bascule.network.frames import internet_checksum
from bascule.network.tap import VIRTIO_HEADER_BYTES, VLAN_TAG_BYTES

NEEDS_CHECKSUM = 0x01  # linux/virtio_net.h, VIRTIO_NET_HDR_F_NEEDS_CSUM
MAGIC = b"BSF1"
_FRAME = struct.Struct("!BII")
_ADDRESSES_BYTES = 12
_LONGEST_BYTES = (1 << 17) + VIRTIO_HEADER_BYTES


class Parcel(NamedTuple):
    """One frame for NIC number `nic`: its virtio header of 10 bytes, and the Ethernet frame.

    `number` says in which order the frames of one NIC came to one host.
    """

    nic: int
    number: int
    header: bytes
    frame: bytes


def identity(parcel: Parcel) -> int:
    """A number that tells a frame again, whoever has seen it: with its checksum as the hardware would complete it.

    One kernel leaves the checksum to the next in line, another has to complete it, as does a tap whose guest's driver
    has not said yet what it can do.
    """
    flags, gso_type, _header_length, _gso_size, csum_start, csum_offset = struct.unpack("=BBHHHH", parcel.header)
    frame, at = parcel.frame, csum_start + csum_offset
    if not flags & NEEDS_CHECKSUM or gso_type or at + 2 > len(frame):
        return hash(frame)
    # The field holds the sum of the pseudo header (Linux, Documentation/networking/checksum-offloads.rst).
    checksum = internet_checksum(frame[csum_start:]) or 0xFFFF
    return hash(b"".join((frame[:at], checksum.to_bytes(2), frame[at + 2 :])))


def with_vlan_tag(parcel: Parcel, tpid: int, tci: int) -> Parcel:
    """Put a VLAN tag, which the kernel keeps beside a frame, back into it; the checksum's place moves with it."""
    nic, number, header, frame = parcel
    flags, gso_type, header_length, gso_size, csum_start, csum_offset = struct.unpack("=BBHHHH", header)
    if flags & NEEDS_CHECKSUM:
        csum_start += VLAN_TAG_BYTES
    if header_length:
        header_length += VLAN_TAG_BYTES
    moved = struct.pack("=BBHHHH", flags, gso_type, header_length, gso_size, csum_start, csum_offset)
    tag = struct.pack("!HH", tpid, tci)
    return Parcel(nic, number, moved, frame[:_ADDRESSES_BYTES] + tag + frame[_ADDRESSES_BYTES:])


def pack(parcels: Iterable[Parcel]) -> bytes:
    """Write a batch."""
    parts = [MAGIC]
    for nic, number, header, frame in parcels:
        parts += (_FRAME.pack(nic, number, len(header) + len(frame)), header, frame)
    return b"".join(parts)


def unpack(batch: bytes) -> Sequence[Parcel]:
    """Read a batch. Raises `Refused` for anything else; an empty one is no frames."""
    if not batch:
        return []
    found = []
    position = len(MAGIC)
    if batch[:position] != MAGIC:
        raise Refused("cannot read a batch of frames: it begins wrongly", "run the same version on both hosts")
    while position < len(batch):
        if position + _FRAME.size > len(batch):
            raise Refused("cannot read a batch of frames: it is cut off")
        nic, number, length = _FRAME.unpack_from(batch, position)
        position += _FRAME.size
        end = position + length
        if not VIRTIO_HEADER_BYTES < length <= _LONGEST_BYTES or end > len(batch):
            raise Refused("cannot read a batch of frames: a frame's length is wrong")
        split = position + VIRTIO_HEADER_BYTES
        found.append(Parcel(nic, number, batch[position:split], batch[split:end]))
        position = end
    return found
