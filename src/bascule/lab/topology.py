"""The lab's network, written down as batches for `ip` and `tc`. Pure: building it is somebody else's work.

    client ──┐
    h1 up0 ──┤ sw: br0, a learning bridge      in each host: br0 with the uplink up0, the host's addresses
    h2 up0 ──┤                                 and the taps of its VMs
    h3 up0 ──┘

Each cable is made in the switch's namespace with its far end directly in the member's, so that the root
namespace never sees an interface. Bridges neither run STP nor delay; multicast snooping is off because without
a querier it only adds frames. No interface makes an IPv6 address of its own: what the lab gives is all there is,
at once, without detection of duplicates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bascule.lab.links import limit_line
from bascule.lab.names import (
    BRIDGE,
    CLIENT,
    PREFIX_LENGTH,
    PREFIX_LENGTH_V6,
    SWITCH,
    UPLINK,
    Member,
    namespace,
)
from bascule.lab.namespaces import Batch

_BRIDGE_KIND = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"


def build_batches(lab: str, members: Sequence[Member], *, link_bit_s: int | None, ipv6: bool) -> list[Batch]:
    """Return what builds the whole network, in order; `members` are the hosts and the client."""
    switch = namespace(lab, SWITCH)
    names = [SWITCH, *(member.name for member in members)]
    batches = [
        Batch("ip", None, tuple(f"netns add {namespace(lab, name)}" for name in names), "make namespaces"),
        Batch("ip", switch, tuple(_switch_lines(lab, members, ipv6=ipv6)), "build the switch"),
    ]
    batches += [
        Batch("ip", namespace(lab, member.name), tuple(_member_lines(member, ipv6=ipv6)), f"build {member.name}")
        for member in members
    ]
    if link_bit_s is not None:
        ports = tuple(limit_line(member.name, link_bit_s) for member in members)
        batches.append(Batch("tc", switch, ports, "limit the switch's ports"))
        batches += [
            Batch("tc", namespace(lab, member.name), (limit_line(UPLINK, link_bit_s),), f"limit {member.name}")
            for member in members
        ]
    return batches


def _switch_lines(lab: str, members: Sequence[Member], *, ipv6: bool) -> Iterator[str]:
    yield f"link add {BRIDGE} {_BRIDGE_KIND}"
    yield from _no_own_address(BRIDGE, ipv6=ipv6)
    yield f"link set {BRIDGE} up"
    for member in members:
        yield f"link add {member.name} type veth peer name {UPLINK} netns {namespace(lab, member.name)}"
        yield from _no_own_address(member.name, ipv6=ipv6)
        yield f"link set {member.name} master {BRIDGE} up"


def _member_lines(member: Member, *, ipv6: bool) -> Iterator[str]:
    yield "link set lo up"
    yield from _no_own_address(UPLINK, ipv6=ipv6)
    if member.name == CLIENT:
        device = UPLINK
        yield f"link set {UPLINK} address {member.mac}"
    else:
        device = BRIDGE
        # An address given by hand stays when a tap with a lower one joins the bridge.
        yield f"link add {BRIDGE} address {member.mac} {_BRIDGE_KIND}"
        yield from _no_own_address(BRIDGE, ipv6=ipv6)
        yield f"link set {UPLINK} master {BRIDGE} up"
    yield f"link set {device} up"
    yield f"address add {member.address}/{PREFIX_LENGTH} dev {device}"
    if ipv6:
        yield f"address add {member.address_v6}/{PREFIX_LENGTH_V6} dev {device} nodad"
        yield f"address add {member.link_local}/{PREFIX_LENGTH_V6} dev {device} nodad"


def _no_own_address(device: str, *, ipv6: bool) -> Iterator[str]:
    if ipv6:
        yield f"link set {device} addrgenmode none"
