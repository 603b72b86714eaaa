"""The frames by which a VM's new place is told to the network, built byte by byte.

All are Ethernet frames without checksum at their end, as one writes them into a tap. Addresses are text.
"""

from __future__ import annotations

import string
import struct
from ipaddress import IPv4Address, IPv6Address

HEX_DIGITS = frozenset(string.hexdigits)

BROADCAST = b"\xff" * 6
ETHERTYPE_ARP = 0x0806
ETHERTYPE_RARP = 0x8035
ETHERTYPE_IPV6 = 0x86DD
SHORTEST_FRAME_BYTES = 60  # IEEE 802.3: 64 with the checksum

ARP_REQUEST = 1
RARP_REQUEST = 3

ICMPV6 = 58
NEIGHBOUR_SOLICITATION = 135
NEIGHBOUR_ADVERTISEMENT = 136
OVERRIDE_FLAG = 0x20000000
SOURCE_LINK_LAYER_ADDRESS = 1
TARGET_LINK_LAYER_ADDRESS = 2

Vlans = tuple[tuple[int, int], ...]
"""The tags of a frame, outermost first, each its protocol (0x8100, 0x88a8) and its VLAN's number."""


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a MAC such as "52:54:00:12:34:56". Raises ValueError for anything else."""
    octets = mac.split(":")
    if len(octets) != 6 or not all(len(octet) == 2 and set(octet) <= HEX_DIGITS for octet in octets):
        raise ValueError(f"{mac!r} is not a MAC address")
    return bytes.fromhex("".join(octets))


def rarp(mac: str) -> bytes:
    """A reverse ARP request for the VM's own MAC: it needs no IP address, and every switch learns from it.

    The same bytes as QEMU sends after a migration (`announce_self_create` in its net/announce.c).
    """
    hardware = mac_bytes(mac)
    return _padded(
        BROADCAST
        + hardware
        + struct.pack("!H", ETHERTYPE_RARP)
        + _arp(RARP_REQUEST, sender=(hardware, bytes(4)), target=(hardware, bytes(4)))
    )


def arp_request(mac: str, sender: str | IPv4Address, wanted: str | IPv4Address) -> bytes:
    """An ARP request: the VM asks everybody for the MAC of `wanted`, which answers the VM alone (RFC 826)."""
    hardware = mac_bytes(mac)
    return _padded(
        BROADCAST
        + hardware
        + struct.pack("!H", ETHERTYPE_ARP)
        + _arp(
            ARP_REQUEST,
            sender=(hardware, IPv4Address(sender).packed),
            target=(bytes(6), IPv4Address(wanted).packed),
        )
    )


def gratuitous_arp(mac: str, address: str | IPv4Address) -> bytes:
    """An ARP request for the VM's own IPv4 address, which refreshes the ARP tables of its neighbours (RFC 5227, 3)."""
    return arp_request(mac, address, address)


def neighbour_solicitation(mac: str, sender: str | IPv6Address, wanted: str | IPv6Address) -> bytes:
    """What `arp_request` is for IPv4: who has `wanted`? The answer goes to the VM alone (RFC 4861, 4.3 and 7.2.2)."""
    target = IPv6Address(wanted).packed
    group = IPv6Address("ff02::1:ff00:0").packed[:13] + target[13:]  # RFC 4291, 2.7.1
    body = bytes(4) + target + bytes([SOURCE_LINK_LAYER_ADDRESS, 1]) + mac_bytes(mac)
    return _discovery(mac, IPv6Address(sender).packed, group, NEIGHBOUR_SOLICITATION, body)


def neighbour_advertisement(mac: str, address: str | IPv6Address) -> bytes:
    """An unsolicited neighbour advertisement for one of the VM's IPv6 addresses (RFC 4861, 4.4 and 7.2.6).

    The override flag is set, so that neighbours take this MAC in place of what they remember.
    """
    ip, all_nodes = IPv6Address(address).packed, IPv6Address("ff02::1").packed
    body = struct.pack("!I", OVERRIDE_FLAG) + ip + bytes([TARGET_LINK_LAYER_ADDRESS, 1]) + mac_bytes(mac)
    return _discovery(mac, ip, all_nodes, NEIGHBOUR_ADVERTISEMENT, body)


def tagged(frame: bytes, vlans: Vlans) -> bytes:
    """The same frame inside these VLANs (IEEE 802.1Q, 9.6), of no particular priority."""
    tags = b"".join(struct.pack("!HH", protocol, number) for protocol, number in vlans)
    return frame[:12] + tags + frame[12:]


def _discovery(mac: str, source: bytes, group: bytes, kind: int, body: bytes) -> bytes:
    message_bytes = 4 + len(body)
    pseudo_header = source + group + struct.pack("!IxxxB", message_bytes, ICMPV6)
    checksum = internet_checksum(pseudo_header + struct.pack("!BBH", kind, 0, 0) + body)
    message = struct.pack("!BBH", kind, 0, checksum) + body
    # Hop limit 255 is how a receiver knows that no router has forwarded this.
    packet = struct.pack("!IHBB", 6 << 28, message_bytes, ICMPV6, 255) + source + group + message
    return _padded(b"\x33\x33" + group[-4:] + mac_bytes(mac) + struct.pack("!H", ETHERTYPE_IPV6) + packet)


def internet_checksum(data: bytes) -> int:
    """The ones' complement sum of RFC 1071 over `data`."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _arp(operation: int, *, sender: tuple[bytes, bytes], target: tuple[bytes, bytes]) -> bytes:
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + b"".join(sender) + b"".join(target)


def _padded(frame: bytes) -> bytes:
    return frame.ljust(SHORTEST_FRAME_BYTES, b"\0")
