"""Telling the network a VM's new place, through its tap and as if the guest had said it.

Sent through the tap, the frames teach this host's own bridge too. A bridge that has learned the MAC on its uplink, from
the VM's traffic on the other host, would drop frames for it for ever otherwise.

The first announcement goes out at the VM's STOP, by `announce_now`: frames then wait in the tap until the VM runs. The
repetitions, by `announce_again`, are for switches that were busy learning something else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Protocol

from bascule.errors import Failed
from bascule.network.frames import Vlans, gratuitous_arp, neighbour_advertisement, rarp, tagged

# After the first one. QEMU's own announcement, with its defaults, repeats after 50, 200, 450 and 800 ms.
REPETITIONS_MS: tuple[int, ...] = (50, 150, 300, 550)


class Injector(Protocol):
    """What frames can be sent into as if the guest had sent them: a `Tap`."""

    def inject(self, frame: bytes) -> None:
        """Send one Ethernet frame. Raises `Failed` when it cannot be sent."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """What is to be said about one NIC: its MAC, and those of the guest's IP addresses that are known.

    `in_vlans` are addresses that the guest uses inside VLANs of its own tagging, each with the frames' tags.
    """

    mac: str
    addresses: tuple[str, ...] = ()
    in_vlans: tuple[tuple[Vlans, str], ...] = ()

    def frames(self) -> tuple[bytes, ...]:
        """RARP, then one gratuitous ARP or unsolicited neighbour advertisement for each address.

        Switches learn a MAC for each VLAN by itself, so RARP goes out in every one that the guest uses, and first.
        """
        vlans = dict.fromkeys(((), *(vlans for vlans, _ in self.in_vlans)))
        places = [*(((), address) for address in self.addresses), *self.in_vlans]
        return (
            *(tagged(rarp(self.mac), tags) for tags in vlans),
            *(tagged(_of_address(self.mac, address), tags) for tags, address in places),
        )


def _of_address(mac: str, address: str) -> bytes:
    parsed = ip_address(address)
    return gratuitous_arp(mac, parsed) if isinstance(parsed, IPv4Address) else neighbour_advertisement(mac, parsed)


def announce_now(nics: Sequence[tuple[Injector, Announcement]]) -> int:
    """Announce each NIC once; returns the number of frames sent. It takes microseconds and may be called in the loop.

    One NIC that cannot be announced does not silence the others: `Failed` is raised at the end for all that could not.
    """
    sent = 0
    failures: list[Failed] = []
    for tap, announcement in nics:
        try:
            for frame in announcement.frames():
                tap.inject(frame)
                sent += 1
        except Failed as failure:
            failures.append(failure)
    if failures:
        raise Failed("; ".join(failure.message for failure in failures), failures[0].remedy)
    return sent


async def announce_again(announce: Callable[[], object], *, after_ms: Sequence[int] = REPETITIONS_MS) -> None:
    """Repeat the announcement at the given times from now, in ms; `announce` sends it once.

    Cancel it when the VM goes elsewhere: it would call the network back to the wrong host. Raises `Failed` when a tap
    does not take frames.
    """
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    for at_ms in after_ms:
        await asyncio.sleep(started_s + at_ms / 1000 - loop.time())
        announce()
