"""The addresses of one NIC of a VM, as its frames have told them: bounded, aged, and only its own. Pure, no clock.

What is announced for a VM must be its own, since an announcement takes an address away from whoever has it. Without one
little is lost: switches learn the MAC from RARP, and neighbours keep the MAC that they know, which moves along. So an
address is forgotten

- when another machine claims it for itself (a failover, a new lease);
- when the VM has not named it for `AGE_S`;
- when there are too many, the oldest first.

An address that the VM has only *answered* for may be another's, for which it is a proxy. It counts only if it is the
one address that it has answered for in that VLAN, and it has named none as its own: a proxy has an address to ask from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from bascule.network.claims import VLAN_PROTOCOLS, Address, Claim, is_of_one_machine
from bascule.network.frames import Vlans

AGE_S = 3600.0
MOST_ADDRESSES = 32  # a frame each at the VM's stop, about 10 us
MOST_NEIGHBOURS = 3  # of each address


@dataclass(frozen=True, slots=True)
class Known:
    """An address of the VM, and with whom it spoke last by it; `age_s` is how long ago the VM named it."""

    address: Address
    vlans: Vlans = ()
    neighbours: tuple[Address, ...] = ()
    age_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "address": str(self.address),
            "vlans": [list(tag) for tag in self.vlans],
            "neighbours": [str(each) for each in self.neighbours],
            "age_s": round(self.age_s, 1),
        }


@dataclass(slots=True)
class _Entry:
    seen_s: float
    certain: bool
    neighbours: dict[Address, None] = field(default_factory=dict)  # the last one last


class AddressBook:
    """What is known of one NIC. Times are seconds of any clock that runs forward, the same in all calls."""

    def __init__(self) -> None:
        self._entries: dict[tuple[Vlans, Address], _Entry] = {}

    def note(self, claim: Claim, now_s: float) -> None:
        """Take in what a frame claimed."""
        key = (claim.vlans, claim.address)
        if claim.by_another:
            self._entries.pop(key, None)
            return
        entry = self._entries.pop(key, None) or _Entry(now_s, claim.certain)
        entry.seen_s, entry.certain = now_s, entry.certain or claim.certain
        if claim.neighbour is not None:
            entry.neighbours.pop(claim.neighbour, None)
            entry.neighbours[claim.neighbour] = None
            if len(entry.neighbours) > MOST_NEIGHBOURS:
                del entry.neighbours[next(iter(entry.neighbours))]
        self._entries[key] = entry  # at the end: the first are the oldest
        if len(self._entries) > MOST_ADDRESSES:
            uncertain = (each for each, kept in self._entries.items() if not kept.certain)
            del self._entries[next(uncertain, next(iter(self._entries)))]

    def known(self, now_s: float) -> tuple[Known, ...]:
        """The addresses that are the VM's own now, the one named last first."""
        for key in [key for key, entry in self._entries.items() if now_s - entry.seen_s > AGE_S]:
            del self._entries[key]
        counted = []
        for (vlans, address), entry in reversed(self._entries.items()):
            if entry.certain or self._is_alone(vlans, address):
                neighbours = tuple(reversed(entry.neighbours))
                counted.append(Known(address, vlans, neighbours, max(0.0, now_s - entry.seen_s)))
        return tuple(counted)

    def take(self, known: Iterable[Known], now_s: float) -> None:
        """Replace what is remembered by what another host has learned, where the VM ran until now."""
        self._entries = {}
        for each in reversed(sorted(known, key=lambda known: known.age_s)[:MOST_ADDRESSES]):
            neighbours = dict.fromkeys(reversed(each.neighbours[:MOST_NEIGHBOURS]))
            self._entries[(each.vlans, each.address)] = _Entry(now_s - each.age_s, True, neighbours)

    def _is_alone(self, vlans: Vlans, address: Address) -> bool:
        return all(
            each == address or each.version != address.version for where, each in self._entries if where == vlans
        )


def read_known(rows: object) -> tuple[Known, ...]:
    """Read what `Known.to_dict` wrote on another host, at most `MOST_ADDRESSES`; what makes no sense is passed over."""
    found = []
    for row in rows[:MOST_ADDRESSES] if isinstance(rows, list) else ():
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            found.append(_read_row(row))
    return tuple(known for known in found if is_of_one_machine(known.address))


def _read_row(row: Mapping[str, Any]) -> Known:
    vlans = tuple((int(protocol), int(number)) for protocol, number in row.get("vlans", ()))
    if any(protocol not in VLAN_PROTOCOLS or not 0 <= number < 4096 for protocol, number in vlans):
        raise ValueError(f"no VLAN tags: {vlans}")
    neighbours = tuple(ip_address(str(each)) for each in row.get("neighbours", ())[:MOST_NEIGHBOURS])
    age_s = float(row.get("age_s", 0.0))
    if not 0 <= age_s <= AGE_S:
        raise ValueError(f"no age: {age_s}")
    return Known(ip_address(str(row["address"])), vlans[:2], neighbours, age_s)
