"""Which frames a virtio card of QEMU's gives to its guest: those that the guest's driver has asked for.

The kernel's vhost-net knows no filter, and gives it all.

QEMU tells the filter (`query-rx-filter`), but for broadcasts: of these it says the contrary of what is (seen with
10.0.2). A card that turned them away could not be found by ARP, so they are taken to pass.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from bascule.errors import BasculeError
from bascule.qemu.machine import QemuMachine

_BROADCAST = b"\xff" * 6
_VLAN_TAG = b"\x81\x00"
_VLAN_ID = 0xFFF
_NAME = re.compile(r"nic(\d+)")
_STATUS = "x-query-virtio-status"
_DEADLINE_S = 1.0


@dataclass(frozen=True, slots=True)
class RxFilter:
    """One card's filter; a set that is None lets everything of its kind pass."""

    promiscuous: bool
    unicast: frozenset[bytes] | None
    multicast: frozenset[bytes] | None
    vlans: frozenset[int] | None

    @classmethod
    def from_answer(cls, answer: Mapping[str, Any]) -> Self:
        """Read what QEMU answers for one card. Raises LookupError or ValueError if it does not say all."""

        def passing(kind: str, own: tuple[bytes, ...] = ()) -> frozenset[bytes] | None:
            if answer[kind] == "none":
                return frozenset()
            if answer[kind] == "all" or answer[f"{kind}-overflow"]:
                return None
            return frozenset((*own, *map(_bytes, answer[f"{kind}-table"])))

        return cls(
            promiscuous=answer["promiscuous"],
            unicast=passing("unicast", (_bytes(answer["main-mac"]),)),
            multicast=passing("multicast"),
            vlans=None if answer["vlan"] == "all" else frozenset(answer["vlan-table"]),
        )

    def passes(self, frame: bytes) -> bool:
        """Whether the guest gets this frame."""
        if self.promiscuous:
            return True
        vlan = int.from_bytes(frame[14:16], "big") & _VLAN_ID if frame[12:14] == _VLAN_TAG else None
        if self.vlans is not None and vlan is not None and vlan not in self.vlans:
            return False
        destination = frame[:6]
        asked_for = self.multicast if destination[0] & 1 else self.unicast
        return destination == _BROADCAST or asked_for is None or destination in asked_for


EVERYTHING = RxFilter(promiscuous=True, unicast=None, multicast=None, vlans=None)


def _bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


async def rx_filters(machine: QemuMachine) -> dict[int, RxFilter]:
    """The filters of a VM's cards, by their numbers; without those that QEMU does not tell."""
    found = {}
    try:
        for answer in await machine.execute("query-rx-filter", deadline_s=_DEADLINE_S):
            if name := _NAME.fullmatch(answer["name"]):
                where = {"path": f"/machine/peripheral/{answer['name']}/virtio-backend"}
                status = await machine.execute(_STATUS, where, deadline_s=_DEADLINE_S)
                found[int(name[1])] = EVERYTHING if status["vhost-started"] else RxFilter.from_answer(answer)
    except (BasculeError, LookupError, TypeError, ValueError):
        pass
    return found
