"""By which link a neighbour is reached: what ARP needs to know before it can ask.

Netlink's library is imported only when ARP is asked for: it takes longer to import than a probe to start.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from bascule.errors import Refused

_LOCAL = 2  # linux/rtnetlink.h: RTN_LOCAL
_ARPHRD_ETHER = 1  # linux/if_arp.h


@dataclass(frozen=True, slots=True)
class Way:
    """The link to a neighbour, and who we are on it."""

    interface: str
    index: int
    mac: bytes
    source: bytes
    target: bytes


def way_to(address: str, attempt: str) -> Way:
    """Find the link on which the IPv4 neighbour `address` is.

    Raises:
        Refused: no route, a route by a gateway, an address of this machine itself, or a link that is no Ethernet.
    """
    from bascule.network.netlink import NetlinkError, netlink_batch  # noqa: PLC0415 - see above

    with netlink_batch() as netlink:
        try:
            (route,) = netlink.route("get", dst=address)
        except NetlinkError as error:
            raise Refused(
                f"{attempt}: {os.strerror(error.code)}", "look at the addresses and routes here: ip route"
            ) from error
        (link,) = netlink.link("get", index=route.get("oif"))
    interface = link.get("ifname")
    if route["type"] == _LOCAL:
        raise Refused(f"{attempt}: that is an address of this machine itself", "ask from another machine")
    if gateway := route.get("gateway") or _address(route.get("via")):
        raise Refused(
            f"{attempt}: it is no neighbour of this machine, but behind gateway {gateway} on {interface}",
            "ARP asks neighbours only: run the probe on a machine of that network, or ask by ICMP",
        )
    if link["ifi_type"] != _ARPHRD_ETHER:
        raise Refused(f"{attempt}: {interface}, by which it is reached, is no Ethernet", "ask by ICMP")
    return Way(
        interface=interface,
        index=link["index"],
        mac=bytes.fromhex(link.get("address").replace(":", "")),
        source=IPv4Address(route.get("prefsrc")).packed,
        target=socket.inet_aton(address),
    )


def _address(via: Any) -> str | None:
    return via.get("addr") if via else None
