"""Settling a move whose QEMU died on the source while the agent was away: there is no copy here to go on with."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import structlog

from bascule.agent.host import Host
from bascule.agent.peers import NoAnswerError
from bascule.agent.quick import remove_saved_state
from bascule.agent.source_move import LOAD_DEADLINE_S, TAKE_DEADLINE_S
from bascule.errors import BasculeError
from bascule.journal.records import MoveRecord, VmRecord
from bascule.migration.model import Mode, Outcome
from bascule.migration.story import Story
from bascule.vm.serialise import from_dict

AGAIN_S = 2.0


async def settle_without_process(host: Host, record: MoveRecord, vm: VmRecord) -> None:
    """Ask the destination until it has decided: it has the VM, or takes it now, or the VM is stopped here.

    As long as that is open the outcome is `unknown`.
    """
    move, log = record.move, structlog.get_logger().bind(move=record.move.id, vm=record.move.vm)
    unknown = False
    while True:
        try:
            outcome, why = await _settle(host, record, vm)
            if outcome is not None:
                await remove_what_was_saved(host, record, vm)
                report = bare_report(record, why) if outcome is Outcome.COMPLETED else None
                await host.journal.end_move(move.id, "source", outcome.value, why, report)
                log.info("move settled", outcome=outcome.value, reason=why)
                return
        except (NoAnswerError, BasculeError) as error:
            why = str(error)
        if not unknown:
            there = move.destination
            reason = f"QEMU on {move.source} has ended, and {why}; {there} is asked again until it answers"
            log.warning("move unsettled", reason=reason)
            with suppress(BasculeError):
                await host.journal.end_move(move.id, "source", Outcome.UNKNOWN.value, reason, None)
                unknown = True
        await asyncio.sleep(AGAIN_S)


async def _settle(host: Host, record: MoveRecord, vm: VmRecord) -> tuple[Outcome | None, str]:
    move = record.move
    offered = vm.offer is not None and vm.offer.move_id == move.id
    answer = {"decision": "refused", "running": False}  # by us, if the destination never was nor will be asked to take
    if offered and (move.mode is Mode.LIVE or record.state_file is not None):
        # The word can be given: a dead copy never runs again.
        body, path = {"state_file": record.state_file}, f"/v1/peer/moves/{move.id}/take"
        deadline_s = LOAD_DEADLINE_S if move.mode is Mode.QUICK else TAKE_DEADLINE_S
        answer = await host.peers.ask(record.peer, "POST", path, body, deadline_s=deadline_s)
    if answer["decision"] == "taken" and answer["running"]:
        await host.journal.release(move.vm_uuid, move.destination, move.epoch)
        return Outcome.COMPLETED, f"the VM runs on {move.destination}"
    if answer["decision"] == "refused":
        await host.journal.withdraw(move.vm_uuid, move.id, move.epoch)
        return Outcome.FAILED, f"QEMU on {move.source} ended during the move; the VM is stopped there"
    return None, f"{move.destination} does not run the VM: {answer['reason']}"


async def remove_what_was_saved(host: Host, record: MoveRecord, vm: VmRecord | None) -> None:
    """Remove what a Quick Migration of an earlier agent may have saved."""
    if vm is None:
        return
    try:
        await asyncio.to_thread(remove_saved_state, host, record.move, from_dict(vm.definition))
    except (BasculeError, OSError) as error:
        structlog.get_logger().warning("saved state cannot be removed", move=record.move.id, why=str(error))


def bare_report(record: MoveRecord, reason: str) -> dict[str, Any]:
    """Return the report of a completed move of which nothing was measured."""
    return Story(record.move, record.started_at, "", 0).report(Outcome.COMPLETED, reason, 0.0)
