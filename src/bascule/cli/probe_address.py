"""Whom to probe when the user did not say: the VM's own address, as far as this host knows it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from bascule.cli.client import AgentClient, url
from bascule.cli.output import say
from bascule.cli.probe_wish import Wish
from bascule.errors import Refused
from bascule.network.tap import tap_name
from bascule.network.vm_addresses import Address, listen, neighbours_with, preferred

LISTEN_S = 3.0


def address_for(client: AgentClient, vm: str, wishes: Sequence[Wish], *, as_json: bool, here: bool = True) -> str:
    """Find the VM's address if a wish needs it, and say on stderr how it was found; empty when none does.

    `here`: it is this host that will ask, so that a link-local address will do.

    Raises:
        Refused: no such VM here, or its address cannot be found.
    """
    if all(wish.address for wish in wishes):
        return ""
    described = client.get(url("vms", vm))
    nics = (described.get("definition") or {}).get("nics") or []
    attempt = f"cannot find the address of vm {vm} to probe"
    if not nics:
        raise Refused(f"{attempt}: it has no network card", "move it without --probe")
    talked = neighbours_with([str(nic["mac"]) for nic in nics])
    learned = _learned(described, {str(nic["mac"]).lower(): str(nic["bridge"]) for nic in nics})
    known = learned | talked
    if address := preferred([address for address in known if _is_usable(address, wishes, here=here)]):
        found = _scoped(address, known[address])
        how = f"this host has talked to it on {known[address]}" if address in talked else "its frames have named it"
    else:
        ways = [
            (tap_name(described["uuid"], number), str(nic["mac"]), str(nic["bridge"]))
            for number, nic in enumerate(nics)
        ]
        found, how = _listened(attempt, ways, wishes, here=here)
    if not as_json:
        say(f"probing {found}: {how}", to=sys.stderr)
    return found


def _learned(described: Mapping[str, Any], bridges: Mapping[str, str]) -> dict[Address, str]:
    """The addresses that the agent has heard the VM name since it runs, each with its bridge; none within a VLAN."""
    found: dict[Address, str] = {}
    for nic in described.get("network") or ():
        for row in nic["known"]:
            if not row["vlans"]:
                found[ip_address(row["address"])] = bridges.get(str(nic["mac"]).lower(), "")
    return found


def _listened(
    attempt: str, nics: Sequence[tuple[str, str, str]], wishes: Sequence[Wish], *, here: bool
) -> tuple[str, str]:
    remedy = "say it, as in: --probe 10.77.0.50 (or ping the VM from this host first)"
    try:
        heard = listen(nics, LISTEN_S)
    except PermissionError as error:
        why = "this host has not talked to it, and only root may watch its frames"
        raise Refused(f"{attempt}: {why}", remedy) from error
    if address := preferred([address for address in heard.certain if _is_usable(address, wishes, here=here)]):
        return _scoped(address, nics[0][2]), "its frames come from there"
    if heard.own:
        only = ", ".join(map(str, sorted(heard.own, key=str)))
        raise Refused(f"{attempt}: all that its frames tell is {only}, which cannot be asked so", remedy)
    several = f", and its frames bear several: {', '.join(map(str, sorted(heard.sources, key=str)))}"
    why = several if len(heard.sources) > 1 else f", nor has it sent a frame with one within {LISTEN_S:g} s"
    raise Refused(f"{attempt}: this host has not talked to it{why}", remedy)


def _scoped(address: Address, link: str) -> str:
    return f"{address}%{link}" if address.version == 6 and address.is_link_local else str(address)


def _is_usable(address: Address, wishes: Sequence[Wish], *, here: bool) -> bool:
    if address.is_link_local and not here:
        return False
    return address.version == 4 or not any(wish.kind == "arp" and not wish.address for wish in wishes)
