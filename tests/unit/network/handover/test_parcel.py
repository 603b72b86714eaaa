"""Frames as they travel between the agents."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.errors import Refused
from bascule.network.frames import internet_checksum
from bascule.network.handover.parcel import Parcel, identity, pack, unpack, with_vlan_tag
from bascule.network.tap import VIRTIO_HEADER_BYTES

FRAME = bytes(range(64))
parcels = st.builds(
    Parcel,
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=VIRTIO_HEADER_BYTES, max_size=VIRTIO_HEADER_BYTES),
    st.binary(min_size=1, max_size=300),
)


@given(st.lists(parcels, max_size=20))
def test_what_is_packed_is_unpacked(batch: list[Parcel]):
    assert unpack(pack(batch)) == batch


def test_nothing_is_no_frames():
    assert unpack(b"") == []
    assert unpack(pack([])) == []


@given(st.lists(parcels, min_size=1, max_size=3), st.data())
def test_a_batch_that_is_cut_off_is_refused(batch: list[Parcel], data: st.DataObject):
    packed = pack(batch)
    whole = {len(pack(batch[:count])) for count in range(len(batch) + 1)}
    cut = data.draw(st.integers(1, len(packed) - 1).filter(lambda length: length not in whole))
    with pytest.raises(Refused, match="cannot read a batch of frames"):
        unpack(packed[:cut])


@pytest.mark.parametrize("wrong", [b"GET / HTTP/1.1", b"BSF1" + struct.pack("!BII", 0, 1, 0xFFFFFFFF) + FRAME])
def test_what_is_no_batch_is_refused(wrong: bytes):
    with pytest.raises(Refused, match="cannot read a batch of frames"):
        unpack(wrong)


def test_a_vlan_tag_is_put_back_and_the_checksum_moves_with_it():
    header = struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16)
    tagged = with_vlan_tag(Parcel(0, 7, header, FRAME), 0x8100, 0x2064)
    assert tagged.frame == FRAME[:12] + bytes.fromhex("81002064") + FRAME[12:]
    assert struct.unpack("=BBHHHH", tagged.header) == (1, 1, 58, 1448, 38, 16)


def test_a_vlan_tag_leaves_a_finished_checksum_alone():
    tagged = with_vlan_tag(Parcel(0, 7, bytes(10), FRAME), 0x88A8, 5)
    assert tagged.header == bytes(10)
    assert tagged.frame[12:16] == bytes.fromhex("88a80005")


def test_a_frame_is_told_again_whoever_completed_its_checksum():
    """A UDP datagram as the sender's kernel leaves it to the hardware, and as the hardware completes it."""
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, 32, 1, 0x4000, 64, 17, 0, 0x0A4D0001, 0x0A4D0032)
    pseudo = ip[12:20] + struct.pack("!xBH", 17, 12)
    udp = struct.pack("!HHHH", 5000, 7, 12, 0)
    payload = b"data"
    left = (~internet_checksum(pseudo)) & 0xFFFF
    whole = internet_checksum(pseudo + udp + payload)
    head = bytes(12) + b"\x08\x00" + ip
    unfinished = Parcel(0, 1, struct.pack("=BBHHHH", 1, 0, 0, 0, 34, 6), head + udp[:6] + left.to_bytes(2) + payload)
    finished = Parcel(0, 2, bytes(10), head + udp[:6] + whole.to_bytes(2) + payload)
    assert identity(unfinished) == identity(finished)
    assert identity(finished) != identity(finished._replace(frame=finished.frame[:-1] + b"!"))


def test_a_checksum_beyond_the_end_is_left_alone():
    assert identity(Parcel(0, 1, struct.pack("=BBHHHH", 1, 0, 0, 0, 60, 16), FRAME)) == hash(FRAME)
