"""What really passed a link, by the kernel's time stamps: a witness that shares nothing with the probe but the wire."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise
from types import TracebackType
from typing import NamedTuple, Self

from tests.lab.probe_line import ETH_P_ALL, GREETING, SO_RCVBUFFORCE, Inside, Numbers

SO_TIMESTAMPNS_NEW = 64
_STAMP = struct.Struct("=qq")
_PCAP_HEADER_BYTES = 24
_PCAP_NANOSECONDS = 0xA1B23C4D
_PCAP_RECORD = struct.Struct("=IIII")


class Passed(NamedTuple):
    """A probe's request or answer: its number, and when it passed, in ns of the wall clock."""

    number: int
    at_ns: int


class Wire:
    """Keeps every frame that passes a link of a namespace, from `with` on. It is read once, at the end."""

    def __init__(self, inside: Inside, link: str) -> None:
        self._socket = inside.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1)
        self._socket.bind((link, ETH_P_ALL))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def frames(self) -> list[tuple[int, bytes]]:
        """All that has passed until now: (when, the frame)."""
        found = []
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(256, 64)
            except BlockingIOError:
                return found
            (stamp,) = [value for _, what, value in ancillary if what == SO_TIMESTAMPNS_NEW]
            seconds, nanoseconds = _STAMP.unpack(stamp)
            found.append((seconds * 10**9 + nanoseconds, data))


def frames_of(pcap: bytes) -> list[tuple[int, bytes]]:
    """The frames in a file of `tcpdump --time-stamp-precision=nano -w`: (when, the frame)."""
    (magic,) = struct.unpack_from("=I", pcap)
    assert magic == _PCAP_NANOSECONDS
    found, at = [], _PCAP_HEADER_BYTES
    while at + _PCAP_RECORD.size <= len(pcap):
        seconds, nanoseconds, kept, _ = _PCAP_RECORD.unpack_from(pcap, at)
        at += _PCAP_RECORD.size
        found.append((seconds * 10**9 + nanoseconds, pcap[at : at + kept]))
        at += kept
    return found


def sort_out(
    frames: Iterable[tuple[int, bytes]], requests: Numbers, answers: Numbers
) -> tuple[list[Passed], list[Passed]]:
    """The probe's requests and the answers to it, in the order in which they passed."""
    sent, came = [], []
    for at_ns, frame in frames:
        for numbers, is_request, kept in ((requests, True, sent), (answers, False, came)):
            number = numbers.of(frame, is_request)
            if 0 <= number < GREETING:
                kept.append(Passed(number, at_ns))
    return sent, came


def counts(sent: Sequence[Passed], came: Sequence[Passed]) -> tuple[int, int, int, int]:
    """Sent, lost, duplicated and reordered, as `bascule.network.outage` defines them, word by word."""
    asked = {request.number for request in sent}
    first: dict[int, int] = {}
    reordered = highest = 0
    for answer in came:
        if answer.number in first:
            continue
        first[answer.number] = answer.at_ns
        reordered += answer.number < highest
        highest = max(highest, answer.number)
    return len(asked), len(asked - first.keys()), len(came) - len(first), reordered


def longest_gap_ms(came: Sequence[Passed]) -> float:
    """The longest time between two answers."""
    return max((after.at_ns - before.at_ns) / 1e6 for before, after in pairwise(came))
