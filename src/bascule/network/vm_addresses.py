"""Which IP address a VM has, as far as its host can know.

Two things may tell: the host's own neighbour tables, where it has talked to the VM; and the VM's frames, which pass its
tap. In ARP and in neighbour discovery a machine names its own addresses. The source address of other frames need not be
its own (it may route for others), so those count only when there is just one. A VM that says nothing may be made to:
one ping goes to all nodes on its bridge (ff02::1), which most systems answer from their link-local address.
"""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from bascule.network.frames import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    ICMPV6,
    NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION,
    mac_bytes,
)
from bascule.network.netlink import netlink_batch
from bascule.network.probe.packet_filter import attach

_FAILED_STATES = 0x01 | 0x20  # linux/neighbour.h: NUD_INCOMPLETE, NUD_FAILED
_ETHERTYPE_IPV4 = 0x0800
_ETH_P_ALL = 3
_ECHO_REQUEST = 128
_READ_BYTES = 128
_BETTER_WITHIN_S = 1.0

Address = IPv4Address | IPv6Address


@dataclass(slots=True)
class Heard:
    """Addresses in a VM's frames: `own` as it names them itself, `sources` in any frame."""

    own: set[Address] = field(default_factory=set)
    sources: set[Address] = field(default_factory=set)

    @property
    def certain(self) -> set[Address]:
        """Those that are the VM's own."""
        return self.own or (self.sources if len(self.sources) == 1 else set())


def neighbours_with(macs: Sequence[str]) -> dict[Address, str]:
    """The addresses under which this host knows these MACs, each with the link where it does. Blocks for some ms."""
    wanted = {mac.lower() for mac in macs}
    found: dict[Address, str] = {}
    with netlink_batch() as netlink:
        links = {link["index"]: str(link.get("ifname")) for link in netlink.link("dump")}
        for entry in netlink.get_neighbours():
            if entry.get("NDA_LLADDR") in wanted and not entry["state"] & _FAILED_STATES:
                found[ip_address(entry.get("NDA_DST"))] = links.get(entry["ifindex"], "")
    return found


def listen(nics: Sequence[tuple[str, str, str]], for_s: float) -> Heard:
    """Watch the VM's frames pass its taps, (tap, MAC, bridge) each, until an address is certain, or for so long.

    A link-local address alone is good for clients on the VM's own bridge only: where nothing better has been heard a
    while after it, it has to do.

    Raises PermissionError without root. A tap that is not there is passed over.
    """
    heard = Heard()
    deadline, settled = time.monotonic() + for_s, math.inf
    with ExitStack() as opened:
        taps = [opened.enter_context(sock) for tap, mac, _ in nics if (sock := _open(tap, mac))]
        for bridge in {bridge for _, _, bridge in nics}:
            _ping_all(bridge)
        while taps and (left := min(deadline, settled) - time.monotonic()) > 0:
            for sock in select.select(taps, [], [], left)[0]:
                with suppress(OSError):  # the tap went away
                    take(sock.recv(_READ_BYTES), heard)
            if any(not address.is_link_local for address in heard.own):
                break
            if heard.own and settled == math.inf:
                settled = time.monotonic() + _BETTER_WITHIN_S
    return heard


def _ping_all(bridge: str) -> None:
    """Send an ICMPv6 echo request to all nodes on `bridge`, if this host has IPv6 there."""
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        request = bytes([_ECHO_REQUEST, 0, 0, 0, 0, 0, 0, 0])  # the kernel writes the checksum
        sock.sendto(request, ("ff02::1", 0, 0, socket.if_nametoindex(bridge)))


def preferred(addresses: Sequence[Address]) -> Address | None:
    """The one that a client would most likely use: IPv4 before IPv6, link-local last."""
    return min(addresses, key=lambda address: (address.is_link_local, address.version, int(address)), default=None)


def take(frame: bytes, heard: Heard) -> None:
    """Note the addresses in one frame that the VM sent."""
    ethertype = int.from_bytes(frame[12:14])
    if ethertype == ETHERTYPE_ARP and len(frame) >= 32:
        _add(heard.own, IPv4Address(frame[28:32]))
    elif ethertype == _ETHERTYPE_IPV4 and len(frame) >= 34:
        _add(heard.sources, IPv4Address(frame[26:30]))
    elif ethertype == ETHERTYPE_IPV6 and len(frame) >= 54:
        source = IPv6Address(frame[22:38])
        message = frame[54:]
        is_discovery = frame[20] == ICMPV6 and message[:1] in (
            bytes([NEIGHBOUR_SOLICITATION]),
            bytes([NEIGHBOUR_ADVERTISEMENT]),
        )
        _add(heard.own if is_discovery else heard.sources, source)
        if is_discovery and message[0] == NEIGHBOUR_ADVERTISEMENT and len(message) >= 24:
            _add(heard.own, IPv6Address(message[8:24]))


def _add(addresses: set[Address], address: Address) -> None:
    if not (address.is_unspecified or address.is_multicast or address.is_loopback):
        addresses.add(address)


def _open(tap: str, mac: str) -> socket.socket | None:
    hardware = mac_bytes(mac)
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        attach(sock, [(6, 4, int.from_bytes(hardware[:4])), (10, 2, int.from_bytes(hardware[4:]))])
        sock.bind((tap, _ETH_P_ALL))
    except OSError:
        sock.close()
        return None
    return sock
