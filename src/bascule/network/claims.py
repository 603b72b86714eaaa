"""What one frame of ARP or neighbour discovery says about who has an address. Pure.

A machine names its own addresses in what it sends of these, and almost only those. What a router or a proxy does for
others is told apart, because the VM must never be announced for an address that is another machine's:

- Forwarded traffic is neither ARP nor discovery: it is not looked at.
- An ARP *request*, and a gratuitous ARP of either kind, name the sender itself. An ARP *reply* may be given for another
  (proxy ARP, RFC 1027), and counts only under a condition; see `bascule.network.address_book`.
- A discovery message comes from an address of the sender: hop limit 255 shows that nobody has forwarded it (RFC 4861,
  11.2). The target of an advertisement is the sender's own if the override flag is set; a proxy leaves it out (7.2.8).
- A probe for duplicates comes from no address, and claims nothing yet (RFC 5227, RFC 4862).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from bascule.network.frames import (
    ARP_REQUEST,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    ICMPV6,
    NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION,
    OVERRIDE_FLAG,
    TARGET_LINK_LAYER_ADDRESS,
    Vlans,
)

VLAN_PROTOCOLS = (0x8100, 0x88A8)  # IEEE 802.1Q: customer and service tags
DISCOVERY = range(133, 138)  # RFC 4861: router and neighbour solicitation and advertisement, redirect
NO_FORWARDER = 255
MOST_TAGS = 2
_ARP_BYTES = 28
_IPV6_HEADER_BYTES = 40
_SHORTEST_MESSAGE_BYTES = 8
_ADVERTISEMENT_BYTES = 24

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Claim:
    """Whoever sent a frame has `address`, inside `vlans`.

    `certain`: it is its own and nobody's else. `by_another`: the claim is not the VM's but another machine's.
    `neighbour` is with whom the sender wants to speak by this address.
    """

    vlans: Vlans
    address: Address
    certain: bool = True
    by_another: bool = False
    neighbour: Address | None = None


def read(frame: bytes, mac: bytes, outer: Vlans = ()) -> Claim | None:
    """The claim in one frame, if any. `mac` is the VM's; `outer` are tags that the kernel has taken out already."""
    vlans, at = outer, 12
    while (kind := int.from_bytes(frame[at : at + 2])) in VLAN_PROTOCOLS and len(vlans) < MOST_TAGS:
        vlans += ((kind, int.from_bytes(frame[at + 2 : at + 4]) & 0x0FFF),)
        at += 4
    by_vm, body = frame[6:12] == mac, frame[at + 2 :]
    if kind == ETHERTYPE_ARP and len(body) >= _ARP_BYTES:
        return _arp(body, mac, vlans, by_vm=by_vm)
    if kind == ETHERTYPE_IPV6 and len(body) >= _IPV6_HEADER_BYTES + _SHORTEST_MESSAGE_BYTES:
        return _discovery(body, mac, vlans, by_vm=by_vm)
    return None


def is_of_one_machine(address: Address) -> bool:
    """Whether an address can be a machine's own on a network."""
    if isinstance(address, IPv4Address) and int(address) == 0xFFFFFFFF:
        return False
    return not (address.is_unspecified or address.is_multicast or address.is_loopback)


def _arp(body: bytes, mac: bytes, vlans: Vlans, *, by_vm: bool) -> Claim | None:
    sender, target = IPv4Address(body[14:18]), IPv4Address(body[24:28])
    gratuitous = sender == target
    if not is_of_one_machine(sender):
        return None
    if not by_vm:
        return Claim(vlans, sender, by_another=True) if gratuitous and body[8:14] != mac else None
    if body[8:14] != mac:
        return None  # it speaks for another
    certain = gratuitous or int.from_bytes(body[6:8]) == ARP_REQUEST
    neighbour = None if gratuitous or not is_of_one_machine(target) else target
    return Claim(vlans, sender, certain=certain, neighbour=neighbour)


def _discovery(body: bytes, mac: bytes, vlans: Vlans, *, by_vm: bool) -> Claim | None:
    message = body[_IPV6_HEADER_BYTES:]
    if body[6] != ICMPV6 or body[7] != NO_FORWARDER or message[0] not in DISCOVERY:
        return None
    sender, receiver = IPv6Address(body[8:24]), IPv6Address(body[24:40])
    advertised = _advertised(message) if message[0] == NEIGHBOUR_ADVERTISEMENT else None
    if not by_vm:
        to_all = advertised is not None and receiver.is_multicast and mac not in message[_ADVERTISEMENT_BYTES:]
        return Claim(vlans, advertised, by_another=True) if to_all and advertised is not None else None
    address = advertised or sender
    if not is_of_one_machine(address):
        return None
    wanted = receiver
    if message[0] == NEIGHBOUR_SOLICITATION and len(message) >= _ADVERTISEMENT_BYTES:
        wanted = IPv6Address(message[8:24])
    neighbour = wanted if is_of_one_machine(wanted) and wanted != address else None
    return Claim(vlans, address, neighbour=neighbour)


def _advertised(message: bytes) -> IPv6Address | None:
    """The target of an advertisement that is to override what others remember."""
    if len(message) < _ADVERTISEMENT_BYTES or not int.from_bytes(message[4:8]) & OVERRIDE_FLAG:
        return None
    has_option = message[_ADVERTISEMENT_BYTES : _ADVERTISEMENT_BYTES + 1] == bytes([TARGET_LINK_LAYER_ADDRESS])
    target = IPv6Address(message[8:24])
    return target if has_option and is_of_one_machine(target) else None
