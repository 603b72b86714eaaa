from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.storage.state_header import HEADER_BYTES, BadStateError, StateHeader, StateIdentity

short_text = st.text(st.characters(codec="utf-8"), max_size=40)
identities = st.builds(
    StateIdentity,
    vm_uuid=short_text,
    vm_name=short_text,
    epoch=st.integers(0, 1 << 62),
    move_id=short_text,
    machine=short_text,
    accelerator=short_text,
)
headers = st.builds(
    StateHeader, identity=identities, stream_bytes=st.integers(0, 1 << 62), stream_sha256=st.just("ab" * 32)
)
EXAMPLE = StateHeader(StateIdentity("3f1c", "web", 7, "m1", "pc-q35-7.2", "kvm"), 12345, "cd" * 32)


@given(headers)
def test_what_is_written_is_read(header: StateHeader):
    data = header.encode()
    assert len(data) == HEADER_BYTES
    assert StateHeader.decode(data) == header


@given(headers, st.integers(0, HEADER_BYTES * 8 - 1))
def test_any_flipped_bit_is_noticed(header: StateHeader, bit: int):
    data = bytearray(header.encode())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadStateError):
        StateHeader.decode(bytes(data))


@given(headers, st.integers(0, HEADER_BYTES - 1))
def test_a_cut_header_is_noticed(header: StateHeader, length: int):
    with pytest.raises(BadStateError, match="too short"):
        StateHeader.decode(header.encode()[:length])


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_foreign_bytes_are_refused(start: bytes, end: bytes):
    for data in (start.ljust(HEADER_BYTES, b"x"), start + end.rjust(HEADER_BYTES - len(start), b"\0")):
        with pytest.raises(BadStateError):
            StateHeader.decode(data)
        with pytest.raises(BadStateError):
            StateHeader.decode(b"BASCULE\x01\0\0\0\x01" + data[12:])


def sealed(content: bytes) -> bytes:
    content = content.ljust(HEADER_BYTES - 32, b"\0")
    return content + hashlib.sha256(content).digest()


@pytest.mark.parametrize("record", [b"", b"[]", b"null", b"{", b"{}", b'{"vm_uuid": "a"}', b"\xff\xfe"])
def test_a_whole_header_that_says_something_else_is_refused(record: bytes):
    with pytest.raises(BadStateError, match="does not say"):
        StateHeader.decode(sealed(struct.pack("!8sII", b"BASCULE\x01", 1, len(record)) + record))


def test_an_unknown_key_is_refused():
    text = EXAMPLE.encode()
    record = text[16 : text.index(b"\0", 16)].replace(b'"epoch": 7', b'"epoch": 7, "more": 1')
    with pytest.raises(BadStateError, match="does not say"):
        StateHeader.decode(sealed(struct.pack("!8sII", b"BASCULE\x01", 1, len(record)) + record))


def test_another_version_is_refused_by_its_number():
    data = bytearray(EXAMPLE.encode())
    data[8:12] = struct.pack("!I", 2)
    with pytest.raises(BadStateError, match="format version 2, and this Bascule reads 1"):
        StateHeader.decode(bytes(data))


def test_a_file_that_was_never_finished_says_so():
    with pytest.raises(BadStateError, match="never finished"):
        StateHeader.decode(bytes(HEADER_BYTES))


def test_the_format_does_not_change_unnoticed():
    """A change here breaks moves between hosts of two releases: it needs a new version."""
    data = EXAMPLE.encode()
    assert data[:16] == b"BASCULE\x01" + bytes([0, 0, 0, 1]) + struct.pack("!I", data.index(b"\0", 16) - 16)
    assert data[16 : data.index(b"\0", 16)] == (
        b'{"vm_uuid": "3f1c", "vm_name": "web", "epoch": 7, "move_id": "m1", "machine": "pc-q35-7.2", '
        b'"accelerator": "kvm", "stream_bytes": 12345, "stream_sha256": "' + b"cd" * 32 + b'"}'
    )
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()


def test_an_identity_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="does not fit"):
        StateHeader(StateIdentity("u", "x" * 5000, 1, "m", "q35", "tcg"), 0, "").encode()
