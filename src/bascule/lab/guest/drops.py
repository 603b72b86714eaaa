"""What the guest's own kernel has thrown away since its start, of what came to it and of what it had to say."""

from __future__ import annotations

import _socket
import struct

# linux/netlink.h, linux/rtnetlink.h
AF_NETLINK = 16
RTM_GETQDISC, RTM_NEWQDISC = 38, 36
NLM_F_REQUEST, NLM_F_DUMP = 1, 0x300
TCA_STATS = 3
_HEADER = struct.Struct("=IHHII")
_TCMSG_BYTES = 20
_ATTRIBUTE = struct.Struct("=HH")
_STATS = struct.Struct("=QII")  # bytes, packets, drops


def no_room() -> int:
    """Datagrams that came and found their socket full, by IPv4 and IPv6."""
    with open("/proc/net/snmp") as table:  # noqa: PTH123 - `pathlib` takes too long to import
        names, numbers = (line.split() for line in table if line.startswith("Udp:"))
    found = int(dict(zip(names, numbers, strict=True))["RcvbufErrors"])
    try:
        with open("/proc/net/snmp6") as table:  # noqa: PTH123
            found += sum(int(line.split()[1]) for line in table if line.startswith("Udp6RcvbufErrors"))
    except FileNotFoundError:
        return found  # it has no IPv6
    return found


def not_sent() -> int:
    """Frames that its queueing discipline dropped: Debian's `fq_codel` drops what has waited for 100 ms of its time.

    A VM that stands still with a full queue may meet that when it runs on.
    """
    asked = _socket.socket(AF_NETLINK, _socket.SOCK_RAW, 0)
    try:
        question = bytes(_TCMSG_BYTES)
        length = _HEADER.size + len(question)
        asked.send(_HEADER.pack(length, RTM_GETQDISC, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + question)
        return drops_in(asked.recv(1 << 16))
    finally:
        asked.close()


def drops_in(answer: bytes) -> int:
    """The drops of all disciplines in the kernel's answer."""
    found = position = 0
    while position + _HEADER.size <= len(answer):
        length, kind, *_ = _HEADER.unpack_from(answer, position)
        end = position + max(length, _HEADER.size)
        attribute = position + _HEADER.size + _TCMSG_BYTES
        while kind == RTM_NEWQDISC and attribute + _ATTRIBUTE.size <= end:
            size, name = _ATTRIBUTE.unpack_from(answer, attribute)
            if name == TCA_STATS:
                found += _STATS.unpack_from(answer, attribute + _ATTRIBUTE.size)[2]
            attribute += max(size + 3 & ~3, _ATTRIBUTE.size)
        position = end + 3 & ~3
    return found
