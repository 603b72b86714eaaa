"""Listening at a VM's tap for the addresses that it names, at next to no cost.

A filter in the kernel lets through only what `claims` can read: ARP and neighbour discovery that the VM sends, and
announcements of others that take an address from it. Of these at most `MOST_AT_ONCE` frames are read every `PAUSE_S`,
whatever the guest does; the kernel drops what does not fit meanwhile. A machine that names an address names it again.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress

from bascule.network.claims import NO_FORWARDER, VLAN_PROTOCOLS, Claim, read
from bascule.network.frames import ETHERTYPE_ARP, ETHERTYPE_IPV6, ICMPV6, NEIGHBOUR_ADVERTISEMENT, Vlans, mac_bytes
from bascule.network.probe.packet_filter import Field, Same, attach_any

MOST_AT_ONCE = 32
PAUSE_S = 0.2
_ETH_P_ALL = 3
_READ_BYTES = 128
_BUFFER_BYTES = 32 * 1024
# linux/if_packet.h
_SOL_PACKET = 263
_PACKET_AUXDATA = 8
_AUXDATA = struct.Struct("=IIIHHHH")
_TAG_IS_VALID, _PROTOCOL_IS_VALID = 1 << 4, 1 << 6


class Ear:
    """Hears one tap, in the network namespace of the thread that opens it, for as long as the event loop runs."""

    def __init__(self, tap: str, mac: str, hear: Callable[[Claim, bytes], None]) -> None:
        """`hear` is called with each claim and its frame. Raises OSError without root, or without such a tap."""
        self._mac = mac_bytes(mac)
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            attach_any(self._socket, what_to_hear(self._mac))
            self._socket.bind((tap, _ETH_P_ALL))
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket, self._on_frames)

    def _on_frames(self) -> None:
        self._loop.remove_reader(self._socket)
        self._pause = self._loop.call_later(PAUSE_S, self._listen_again)
        self.catch_up()

    def _listen_again(self) -> None:
        self._loop.add_reader(self._socket, self._on_frames)

    def catch_up(self) -> None:
        """Read what has come, at most so much. It does not block."""
        with suppress(OSError):  # nothing there, or the tap is gone: then there is nothing to hear any more
            for _ in range(MOST_AT_ONCE):
                frame, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, socket.CMSG_SPACE(_AUXDATA.size))
                claim = read(frame, self._mac, _outer_tag(ancillary))
                if claim is not None:
                    self._hear(claim, frame)

    def close(self) -> None:
        """Hear no more. The kernel takes some ms to let go of the socket, in a thread."""
        if self._pause is not None:
            self._pause.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            close_in_thread(self._loop, (self._socket,))


def close_in_thread(loop: asyncio.AbstractEventLoop, sockets: Sequence[socket.socket]) -> None:
    """Close packet sockets: the kernel waits for all that may still use them, up to some ms for each."""
    for each in sockets:
        loop.run_in_executor(None, each.close)


def _outer_tag(ancillary: list[tuple[int, int, bytes]]) -> Vlans:
    """The tag that the kernel has taken out of the frame, if there was one."""
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA) and len(data) >= _AUXDATA.size:
            status, _, _, _, _, tag, protocol = _AUXDATA.unpack(data[: _AUXDATA.size])
            if status & _TAG_IS_VALID:
                return ((protocol if status & _PROTOCOL_IS_VALID else VLAN_PROTOCOLS[0], tag & 0x0FFF),)
    return ()


def what_to_hear(mac: bytes) -> list[list[Field | Same]]:
    """What the filter lets through: whatever may be a claim by the VM with this MAC, or one against it."""
    from_vm: list[Field | Same] = [(6, 4, int.from_bytes(mac[:4])), (10, 2, int.from_bytes(mac[4:]))]
    heard: list[list[Field | Same]] = []
    for tag in (None, *VLAN_PROTOCOLS):
        # A tag that comes first has been taken out by the kernel; this is the inner one of two.
        tagged: list[Field | Same] = [] if tag is None else [(12, 2, tag)]
        at = 14 + 4 * len(tagged)
        arp: list[Field | Same] = [*tagged, (at - 2, 2, ETHERTYPE_ARP)]
        discovery = [*tagged, (at - 2, 2, ETHERTYPE_IPV6), (at + 6, 1, ICMPV6), (at + 7, 1, NO_FORWARDER)]
        advertised_to_all: list[Field | Same] = [(0, 2, 0x3333), (at + 40, 1, NEIGHBOUR_ADVERTISEMENT)]
        heard += [
            [*arp, *from_vm],
            [*arp, Same(at + 14, at + 24)],
            [*discovery, *from_vm],
            [*discovery, *advertised_to_all],
        ]
    return heard
