"""Going on, after the agent's restart, with the moves that its predecessor left unfinished.

What counts is what is durable and what is real; `migration.recovery` says what follows from it. Here it is looked up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from bascule.agent.destination_move import DestinationMove
from bascule.agent.host import Host
from bascule.agent.machines import RunningVm
from bascule.agent.peers import NoAnswerError
from bascule.agent.quick import sweep_saved_state
from bascule.agent.shared_storage import sweep_token
from bascule.agent.source_move import SourceMove
from bascule.errors import BasculeError
from bascule.journal.records import Claim, MoveRecord, VmRecord
from bascule.journal.register import JournalRegister
from bascule.migration import source
from bascule.migration.forecast import Experience
from bascule.migration.model import Decision, Outcome
from bascule.migration.recovery import Copy, incoming_copy, resume_destination, resume_source, source_copy
from bascule.migration.register import Ballot
from bascule.migration.source_confirming import released
from bascule.migration.story import Story
from bascule.qemu.machine import QemuMachine
from bascule.qemu.migration_control import MigrationControl
from bascule.qemu.process import QemuExited
from bascule.qemu.process_record import ProcessRecord, boot_id
from bascule.vm.serialise import from_dict

CLAIM_DEADLINE_S = 3.0


async def reconcile(host: Host) -> set[str]:
    """Go on with every unfinished move. Return the directories of the QEMUs that belong to one.

    A record that cannot be gone on with is logged and left as it is; it does not keep the others waiting.
    """
    log = structlog.get_logger()
    directories: set[str] = set()
    for record in await host.journal.moves("destination", unfinished=True):
        directory = str(record.process["directory"]) if record.process is not None else None
        try:
            held = await _go_on_as_destination(host, record)
        except (BasculeError, OSError, LookupError, ValueError):
            log.exception("cannot go on with an incoming move", move=record.move.id, vm=record.move.vm)
            held = True  # nothing is known of it, so it is left alone
        if held and directory is not None:
            directories.add(directory)
    for record in await host.journal.moves("source", unfinished=True):
        try:
            await _go_on_as_source(host, record)
        except (BasculeError, OSError, LookupError, ValueError):
            log.exception("cannot go on with a move", move=record.move.id, vm=record.move.vm)
    return directories


# --- as the source -------------------------------------------------------------------------------------------------


async def _go_on_as_source(host: Host, record: MoveRecord) -> None:
    move = record.move
    vm_record = await host.journal.vm_by_uuid(move.vm_uuid)
    if vm_record is None or not vm_record.here:
        await _go_on_released(host, record, vm_record)
        return
    vm = host.machines.get(move.vm_uuid) or _ended_vm(host, vm_record)
    await sweep_token(host, move, vm.definition)
    offered = vm_record.offer is not None and vm_record.offer.move_id == move.id
    copy = await _copy_of(host, vm, source_copy)
    log = structlog.get_logger()
    log.info("going on with a move", move=move.id, vm=move.vm, offered=offered, copy=copy.name)
    file, epoch, ago_s = record.state_file, vm_record.epoch, _ago_s(record)
    first = resume_source(move, offered=offered, copy=copy, state_file=file, now=ago_s, epoch=epoch)
    _go_on(host, record, vm, first, ago_s)


def _go_on(host: Host, record: MoveRecord, vm: RunningVm, first: source.Step, ago_s: float) -> None:
    move, peer, fixed_ms = record.move, record.peer, Experience().fixed_ms
    story = Story(move, record.started_at, vm.accelerator, vm.definition.memory_mib)
    began_s = asyncio.get_running_loop().time() - ago_s
    outgoing = SourceMove(host, vm, move, peer=peer, story=story, fixed_ms=fixed_ms, began_s=began_s)
    outgoing.checked.set_result(())
    host.moves.go_on_outgoing(outgoing, first)


def _ended_vm(host: Host, record: VmRecord) -> RunningVm:
    """Stand for a VM of this host whose QEMU has ended."""
    directory = host.vm_directory / record.name
    process = record.process or {"pid": 0, "start_ticks": 0, "boot_id": "", "directory": str(directory), "argv": ()}
    machine = QemuMachine.ended(ProcessRecord.from_dict(process))
    return RunningVm(from_dict(record.definition), record.accelerator or "tcg", machine)


async def _go_on_released(host: Host, record: MoveRecord, vm: VmRecord | None) -> None:
    """The VM is another host's by now; what is left to do is to say so, as soon as it is known."""
    move = record.move
    ago_s = _ago_s(record)
    state, commands = released(move, vm.ownership if vm is not None else None, ago_s)
    if vm is not None and not isinstance(state, source.Ended):
        _go_on(host, record, _ended_vm(host, vm), (state, commands), ago_s)
        return
    if vm is not None:
        await sweep_saved_state(host, move, from_dict(vm.definition))
    assert isinstance(state, source.Ended)  # noqa: S101 - `released` knows of nothing else without a row
    outcome, reason = state.ending.outcome, state.ending.reason
    report = bare_report(record, outcome, reason, vm.owner if vm is not None else None)
    await host.journal.end_move(move.id, "source", outcome.value, reason, report)


def bare_report(record: MoveRecord, outcome: Outcome, reason: str, belongs_to: str | None = None) -> dict[str, Any]:
    """Return the report of a move of which nothing was measured but its beginning, and that ends now."""
    return Story(record.move, record.started_at, "", 0).report(outcome, reason, _ago_s(record), belongs_to)


def _ago_s(record: MoveRecord) -> float:
    """How long ago a move began, by this host's wall clock, which the agent that began it has read as well."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(record.started_at)).total_seconds())


# --- as the destination --------------------------------------------------------------------------------------------


async def _go_on_as_destination(host: Host, record: MoveRecord) -> bool:
    """Go on, and return whether there is a QEMU of this move."""
    move = record.move
    ballot = Ballot.of(move)
    decision = await JournalRegister(host.journal).read(ballot)
    if decision is Decision.TAKEN and await _stood_down(host, record):
        return False
    vm = await _incoming_vm(host, record, decision)
    if vm is None and decision is None:
        # The sweep ends what an agent left half made, but not before this is written.
        decision = await JournalRegister(host.journal).decide(ballot, Decision.REFUSED)
    copy = await _copy_of(host, vm, incoming_copy) if vm is not None else Copy.GONE
    given_back = await host.journal.fate(ballot) == "given back"
    never_ran = await _never_ran(host, record)
    log = structlog.get_logger()
    log.info("going on with an incoming move", move=move.id, vm=move.vm, decision=decision, copy=copy.name)
    first = resume_destination(
        move,
        decision=decision,
        copy=copy,
        now=0.0,
        never_ran=never_ran,
        given_back=given_back,
    )
    doubtful = decision is Decision.TAKEN and not never_ran
    host.moves.go_on_incoming(DestinationMove(host, record, may_have_run=doubtful), first, vm)
    return vm is not None


async def _incoming_vm(host: Host, record: MoveRecord, decision: Decision | None) -> RunningVm | None:
    if decision is Decision.TAKEN:
        return host.machines.get(record.move.vm_uuid)
    if record.process is None:
        return None
    try:
        return await host.machines.adopt(record.definition or {}, record.process, record.accelerator or "tcg")
    except QemuExited:
        return None


async def _never_ran(host: Host, record: MoveRecord) -> bool:
    """Whether it is certain that no vCPU of this move's VM has run here: nobody told QEMU so, since this boot."""
    move = record.move
    this_boot = record.process is not None and record.process["boot_id"] == boot_id()
    vm = await host.journal.vm_by_uuid(move.vm_uuid)
    as_taken = vm is not None and vm.epoch == move.epoch  # else it is this host's by an operator's word
    return this_boot and as_taken and not host.run_marks.may_have_run(move.vm_uuid)


async def _stood_down(host: Host, record: MoveRecord) -> bool:
    """Learn, before a VM that was taken is let run, whether an operator has decided otherwise meanwhile.

    It may be written here already: then the agent before this one died before it had cleaned up. Else the source is
    asked; one that does not answer has nothing to say: the VM was taken.
    """
    row = await host.journal.vm_by_uuid(record.move.vm_uuid)
    if row is not None and not row.here and await host.journal.fate(Ballot.of(record.move)) != "given back":
        reason = f"an operator let the VM run on {row.owner} meanwhile"
        await host.journal.end_incoming(record.move, "refused", reason)  # a QEMU of it here is swept
        return True
    path = f"/v1/peer/moves/{record.move.id}/offer?vm_uuid={record.move.vm_uuid}"
    try:
        answer = await host.peers.ask(record.peer, "GET", path, deadline_s=CLAIM_DEADLINE_S)
    except (NoAnswerError, BasculeError):
        return False
    claim = Claim(**answer["claim"]) if answer.get("claim") else None
    if claim is None or not await host.journal.stand_down(claim):
        return False
    vm = host.machines.get(record.move.vm_uuid)
    if vm is not None:
        await vm.machine.kill()
        await host.machines.destroy(vm)
    await host.journal.end_incoming(record.move, "refused", claim.reason)
    return True


async def _copy_of(host: Host, vm: RunningVm, read: Callable[[str, str], Copy]) -> Copy:
    """Ask QEMU how far its side of the copy is. One that does not answer may be anywhere: it is asked again later."""
    if not vm.machine.process.alive:
        return Copy.GONE
    try:
        stats = await MigrationControl(vm.machine, host.features).query()
        return read(stats.status, await vm.machine.status())
    except QemuExited:
        return Copy.GONE
    except BasculeError:
        return Copy.UNDER_WAY
