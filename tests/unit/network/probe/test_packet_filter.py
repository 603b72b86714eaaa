from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest

from bascule.network.probe.packet_filter import Field, attach


def passed(packets: Sequence[bytes], fields: Sequence[Field], *, behind_ip_header: bool = False) -> list[bytes]:
    """The packets that the kernel lets through: it filters datagrams between local sockets as it does frames."""
    inside, outside = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with inside, outside:
        attach(inside, fields, behind_ip_header=behind_ip_header)
        inside.setblocking(False)
        for packet in packets:
            outside.send(packet)
        found = []
        while True:
            try:
                found.append(inside.recv(2048))
            except BlockingIOError:
                return found


def test_all_fields_must_hold() -> None:
    fields = [(0, 1, 0xAB), (1, 2, 0x0102), (3, 4, 0x0A4D0032)]
    good = bytes.fromhex("ab01020a4d0032ff")
    bad = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(7)]
    assert passed([*bad, good], fields) == [good]
    assert passed([good[:6], b"\xab"], fields) == []  # too short to tell


@pytest.mark.parametrize("words", [5, 6, 15])
def test_behind_an_ip_header_of_any_length(words: int) -> None:
    header = bytes([0x40 | words]) + bytes(4 * words - 1)
    assert passed([header + b"\x00yes", header + b"\x08no"], [(0, 1, 0)], behind_ip_header=True) == [
        header + b"\x00yes"
    ]
