"""ICMP and ICMPv6 echo: what `ping` asks, of any machine that has an address. The guest's kernel answers by itself.

Two kinds of socket can ask. A *ping socket* needs no privilege where the group is within `net.ipv4.ping_group_range`:
the kernel writes identifier and checksum, and shows only our answers. A *raw socket* needs root (CAP_NET_RAW); there
we write both, and a filter in the kernel hides what others on this machine asked. The ping socket is tried first.

Many routers and firewalls answer only so many echoes a second: loss there need not be loss elsewhere.
"""

from __future__ import annotations

import secrets
import socket
import struct

from bascule.errors import Refused
from bascule.network.frames import internet_checksum
from bascule.network.probe.kinds.numbered import NumberedEcho
from bascule.network.probe.log import StreamLog
from bascule.network.probe.packet_filter import attach
from bascule.network.probe.target import Target

_HEADER = struct.Struct(">BBHHH")  # type, code, checksum, identifier, sequence (RFC 792, RFC 4443)
_REQUEST, _REPLY = 8, 0
_REQUEST_V6, _REPLY_V6 = 128, 129
_IPV4_LENGTH_MASK = 0x0F


class IcmpEcho(NumberedEcho):
    """Asks by ICMP echo; which version, the address says."""

    def __init__(self, target: Target, log: StreamLog) -> None:
        self._is_v6 = target.family == socket.AF_INET6
        self._request, self._reply = (_REQUEST_V6, _REPLY_V6) if self._is_v6 else (_REQUEST, _REPLY)
        self._identifier = secrets.randbelow(1 << 16)
        self._is_raw = False
        super().__init__(target, log)

    def _open(self, target: Target) -> socket.socket:
        protocol = socket.IPPROTO_ICMPV6 if self._is_v6 else socket.IPPROTO_ICMP
        try:
            return socket.socket(target.family, socket.SOCK_DGRAM, protocol)
        except PermissionError:
            pass
        try:
            sock = socket.socket(target.family, socket.SOCK_RAW, protocol)
        except PermissionError as error:
            raise Refused(
                f"cannot probe {target.text} by ICMP: this user may open neither a ping socket nor a raw one",
                "run it as root, or allow it to all: sysctl -w net.ipv4.ping_group_range='0 2147483647';"
                " or ask by --udp, --tcp, --connect or --http, which need no right",
            ) from error
        self._is_raw = True
        attach(sock, [(0, 1, self._reply), (4, 2, self._identifier)], behind_ip_header=not self._is_v6)
        return sock

    def _message(self, number: int, payload: bytes) -> bytes:
        sequence = number & 0xFFFF
        message = _HEADER.pack(self._request, 0, 0, self._identifier, sequence) + payload
        if not self._is_raw or self._is_v6:  # the kernel writes the checksum
            return message
        return _HEADER.pack(self._request, 0, internet_checksum(message), self._identifier, sequence) + payload

    def _payload(self, message: bytes) -> bytes:
        if self._is_raw and not self._is_v6:
            message = message[4 * (message[0] & _IPV4_LENGTH_MASK) :]
        return message[_HEADER.size :] if message[:1] == bytes([self._reply]) else b""
