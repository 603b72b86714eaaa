"""Answers to the other agent about moves that are not under way here: from the journal alone."""

from __future__ import annotations

from typing import Any

from bascule.agent.host import Host
from bascule.agent.http_errors import NotFound
from bascule.journal.register import JournalRegister
from bascule.migration.model import Decision
from bascule.migration.register import Ballot


async def answer_from_journal(host: Host, ballot: Ballot) -> dict[str, Any]:
    """Say what the register holds for a move of which nothing is under way here.

    An empty register is closed by the question: whatever of the move comes later, comes too late.
    """
    held = await JournalRegister(host.journal).decide(ballot, Decision.REFUSED)
    fate = await host.journal.fate(ballot)
    record = await host.journal.move(ballot.move_id, "destination")
    taken = held is Decision.TAKEN
    reason = record.reason if record is not None else "" if taken else f"host {host.name} had nothing of this move"
    return {
        "decision": held.value,
        "running": taken and fate == "ran",
        "given_back": taken and fate == "given back",
        "ended": False,
        "loading": False,
        "reason": reason,
        "times_us": {"asked": None, "loaded": None, "decided": None, "resumed": None},
    }


async def ballot_of(host: Host, move_id: str, vm_uuid: str | None, epoch: int | None) -> Ballot:
    """Return the ballot of a move; agents of older versions do not name all of it. Raises NotFound."""
    if vm_uuid is not None and epoch is not None:
        return Ballot(vm_uuid, epoch, move_id)
    record = await host.journal.move(move_id, "destination")
    if record is None:
        raise NotFound(f"move {move_id} is not known to host {host.name}")
    return Ballot.of(record.move)


async def offer_standing(host: Host, move_id: str, vm_uuid: str | None) -> dict[str, Any]:
    """Say to a destination whether this move's offer stands, and whether an operator has decided it otherwise.

    Agents of older versions do not name the VM.
    """
    if host.moves.outgoing(move_id) is not None:
        standing, reason = True, ""
    else:
        standing, reason = await _standing(host, move_id, vm_uuid)
    return {"standing": standing, "reason": reason, "claim": await host.claims.of_move(move_id)}


async def _standing(host: Host, move_id: str, vm_uuid: str | None) -> tuple[bool, str]:
    record = await host.journal.move(move_id, "source")
    if record is None:
        # Long ago, and forgotten. But a journal that does not even know the VM is not the one that had its offer, and
        # what was not known cannot have been withdrawn: the copy there may be the last.
        standing = vm_uuid is not None and await host.journal.vm_by_uuid(vm_uuid) is None
        return standing, f"host {host.name} knows nothing of move {move_id}"
    vm = await host.journal.vm_by_uuid(record.move.vm_uuid)
    if vm is not None and vm.offer is not None and vm.offer.move_id == move_id:
        return True, ""
    return False, record.reason or f"host {host.name} has withdrawn its offer"
