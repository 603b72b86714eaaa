"""What the kernel knows about a bridge: its ports, its addresses, and where it has seen a MAC.

All functions block for a few milliseconds: call them in a thread.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from bascule.errors import Finding, Refused
from bascule.network.netlink import IPRoute, NetlinkError, netlink_batch

NUD_PERMANENT = 0x80  # linux/neighbour.h: in a bridge's table, an address of the bridge or of a port itself
NTF_SELF = 0x02  # linux/neighbour.h: an entry of the device's own filter, not of the bridge's table


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge of this host as it is now."""

    name: str
    index: int
    mac: str
    mtu_bytes: int
    is_up: bool
    ports: tuple[str, ...]
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    port_delay_s: float  # how long a new port stays deaf and mute: twice the forward delay with STP, else 0


@dataclass(frozen=True, slots=True)
class Sighting:
    """A port behind which a bridge has learned a MAC.

    `port_kind` is the kernel's name for its kind of device ("tun" for a tap, "veth", ...; empty for hardware): a VM
    that runs elsewhere is seen behind the uplink, one that runs here behind a tap.
    """

    port: str
    port_kind: str

    @property
    def is_tap(self) -> bool:
        """Whether the MAC belongs to something on this host that uses a tap, as VMs do."""
        return self.port_kind == "tun"


def exists(name: str) -> bool:
    """Whether this host has a bridge of that name."""
    try:
        read_bridge(name)
    except Refused:
        return False
    return True


def read_bridge(name: str) -> Bridge:
    """Describe the bridge `name`. Raises `Refused` when there is none or `name` is something else."""
    with netlink_batch() as netlink:
        link = bridge_link(netlink, name)
        options = link.get(("linkinfo", "data"))
        stp = bool(options.get("IFLA_BR_STP_STATE"))
        forward_delay_s = options.get("IFLA_BR_FORWARD_DELAY") / 100  # the kernel counts in USER_HZ
        return Bridge(
            name=name,
            index=link["index"],
            mac=link.get("address"),
            mtu_bytes=link.get("mtu"),
            is_up=link["state"] == "up",
            ports=tuple(sorted(port.get("ifname") for port in netlink.link("dump", master=link["index"]))),
            addresses=tuple(
                ip_interface(f"{address.get('IFA_ADDRESS')}/{address['prefixlen']}")
                for address in netlink.get_addr(index=link["index"])
            ),
            port_delay_s=2 * forward_delay_s if stp else 0.0,
        )


def check_bridge(name: str) -> list[Finding]:
    """What keeps VMs from using the bridge `name`, for pre-flight."""
    try:
        bridge = read_bridge(name)
    except Refused as error:
        return [Finding(f"bridge {name}", error.message, error.remedy)]
    if not bridge.is_up:
        return [Finding(f"bridge {name}", "it is down", f"ip link set {name} up")]
    return []


def sightings(bridge: str, mac: str) -> list[Sighting]:
    """The ports of `bridge` behind which it has learned `mac`; addresses of the bridge itself are not counted.

    Raises `Refused` when there is no such bridge.
    """
    wanted = mac.lower()
    with netlink_batch() as netlink:
        index = bridge_link(netlink, bridge)["index"]
        ports = {
            port["index"]: Sighting(port.get("ifname"), port.get(("linkinfo", "kind")) or "")
            for port in netlink.link("dump", master=index)
        }
        found = {
            entry["ifindex"]
            for entry in netlink.fdb("dump", master=index)
            if entry.get("NDA_LLADDR") == wanted
            and not entry["state"] & NUD_PERMANENT
            and not entry["flags"] & NTF_SELF
        }
        return [ports[port] for port in sorted(found & ports.keys())]


def wire_ports(bridge: str) -> tuple[str, ...]:
    """The ports of `bridge` that are no taps: what lies behind them is not a VM of this host.

    Raises `Refused` when there is no such bridge.
    """
    with netlink_batch() as netlink:
        index = bridge_link(netlink, bridge)["index"]
        ports = netlink.link("dump", master=index)
        return tuple(sorted(port.get("ifname") for port in ports if port.get(("linkinfo", "kind")) != "tun"))


def bridge_link(netlink: IPRoute, name: str) -> Any:
    """The kernel's record of the bridge `name`; raises `Refused` when there is none or it is something else."""
    try:
        (link,) = netlink.link("get", ifname=name)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
        raise Refused(
            f"there is no bridge {name} on this host",
            f"create it (ip link add {name} type bridge) or name another bridge in the VM's definition",
        ) from error
    kind = link.get(("linkinfo", "kind"))
    if kind != "bridge":
        raise Refused(
            f"{name} is no bridge but {f'a {kind} device' if kind else 'a network card'}",
            "name a bridge in the VM's definition; the network card belongs into the bridge as its uplink",
        )
    return link
