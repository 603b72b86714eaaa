"""The moves of this host: begin one, watch it, cancel it, and go on with it after a restart."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog

from bascule.agent.destination_move import DestinationMove
from bascule.agent.host import Host, resident_bytes
from bascule.agent.http_errors import NotFound
from bascule.agent.machines import RunningVm
from bascule.agent.settling import bare_report, remove_what_was_saved, settle_without_process
from bascule.agent.source_move import SourceMove, phase_name
from bascule.agent.tasks import TaskKeeper
from bascule.errors import BasculeError, Failed, Finding, Refused
from bascule.journal.records import MoveRecord, VmRecord, move_from_dict
from bascule.migration.forecast import Experience, Forecast, learn, predict
from bascule.migration.model import Decision, Goals, Mode, Move
from bascule.migration.recovery import Copy, resume_destination, resume_source, source_copy
from bascule.migration.story import Story
from bascule.qemu.migration_control import MigrationControl
from bascule.qemu.process import QemuExited

LEARNED_FROM = 40


class Moves:
    """All moves that this host takes part in."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._outgoing: dict[str, SourceMove] = {}
        self._incoming: dict[str, DestinationMove] = {}
        self._tasks = TaskKeeper("moves")
        self._log = structlog.get_logger()

    async def close(self) -> None:
        """Leave all moves as they are; the next agent of this host goes on with them."""
        await self._tasks.close()

    # --- as the source -----------------------------------------------------------------------------------------------

    async def _requested(self, name: str, destination: str, mode: Mode, goals: Goals) -> tuple[Move, RunningVm, str]:
        """Turn a request into a move. Raises Refused for what makes no sense at all."""
        host = self._host
        attempted = f"move vm {name} to host {destination}"
        record = await host.journal.vm(name)
        if record is None:
            gone = await host.journal.handed_over(name)
            where = f"it was moved to host {gone.owner}" if gone else "no VM of this name is defined here"
            raise NotFound(f"cannot {attempted}: {where}", "see bascule vm list, and bascule hosts for the other hosts")
        if destination == host.name:
            raise Refused(f"cannot {attempted}: it is there already", "name another host: bascule hosts")
        peer = host.config.address_of(destination)
        vm = host.machines.get(record.uuid)
        if vm is None:
            raise Refused(
                f"cannot {attempted}: it does not run",
                f"start it first: bascule vm start {name}",
            )
        if vm.busy is not None:
            raise Refused(
                f"cannot {attempted}: move {vm.busy} of it is under way", f"wait for it, or bascule cancel {name}"
            )
        move = Move(
            id="m" + secrets.token_hex(4),
            vm=name,
            vm_uuid=record.uuid,
            source=host.name,
            destination=destination,
            epoch=record.epoch + 1,
            mode=mode,
            goals=goals,
        )
        return move, vm, peer

    async def plan(
        self, name: str, destination: str, mode: Mode, goals: Goals
    ) -> tuple[tuple[Finding, ...], Forecast | None]:
        """Check everything and change nothing. Return the findings and the forecast."""
        move, vm, peer = await self._requested(name, destination, mode, goals)
        forecast, experience = await self._forecast(move, vm)
        findings = await self._host.preflight.check(move, vm, peer, experience.fixed_ms)
        return findings, forecast

    async def begin(self, name: str, destination: str, mode: Mode, goals: Goals) -> SourceMove:
        """Start a move and return it once its pre-flight is through. Raises Refused with all findings otherwise."""
        host = self._host
        move, vm, peer = await self._requested(name, destination, mode, goals)
        vm.busy = move.id  # before the next await, so that of two calls at once one is refused
        try:
            forecast, experience = await self._forecast(move, vm)
            started_at = datetime.now(UTC).isoformat(timespec="microseconds")
            story = Story(move, started_at, vm.accelerator, vm.definition.memory_mib, forecast)
            await host.journal.begin_move(MoveRecord(move, "source", peer, started_at))
            outgoing = SourceMove(host, vm, move, peer=peer, story=story, fixed_ms=experience.fixed_ms)
        except BaseException:
            vm.busy = None
            raise
        self._run_outgoing(outgoing)
        findings = await outgoing.checked
        if findings:
            raise Refused.from_findings(f"move vm {name} to host {destination}", findings)
        return outgoing

    def _run_outgoing(self, outgoing: SourceMove, first: Any = None) -> None:
        self._outgoing[outgoing.move.id] = outgoing
        outgoing.vm.busy = outgoing.move.id

        async def run() -> None:
            try:
                await outgoing.run(first)
            finally:
                if not outgoing.checked.done():  # somebody may wait for it
                    outgoing.checked.set_exception(
                        Failed(f"move {outgoing.move.id} was broken off", "see bascule moves")
                    )
                    outgoing.checked.exception()
                if outgoing.ended.is_set():  # else it is not settled, and the VM is not free for anything else
                    outgoing.vm.busy = None
                    self._outgoing.pop(outgoing.move.id, None)

        self._tasks.spawn(run(), f"move {outgoing.move.id} out")

    async def _forecast(self, move: Move, vm: RunningVm) -> tuple[Forecast, Experience]:
        records = await self._host.journal.moves("source", limit=LEARNED_FROM)
        reports = [r.report for r in records if r.report is not None and r.report.get("accelerator") == vm.accelerator]
        experience = learn(reports, move.vm, move.mode)
        touched = resident_bytes(vm.machine.record.pid)
        return predict(move.mode, move.goals, touched, experience), experience

    async def cancel(self, name_or_id: str, who: str) -> tuple[bool, str]:
        """Cancel a move by its id or its VM's name."""
        for outgoing in self._outgoing.values():
            if name_or_id in (outgoing.move.id, outgoing.move.vm):
                return outgoing.cancel(who)
        for incoming in self._incoming.values():
            if name_or_id in (incoming.move.id, incoming.move.vm):
                raise Refused(
                    f"cannot cancel move {incoming.move.id} here: host {incoming.move.source} leads it",
                    f"run bascule cancel {name_or_id} on host {incoming.move.source}",
                )
        if await self._host.journal.move(name_or_id, "source") is not None:
            return False, "the move has ended already"
        raise NotFound(f"cannot cancel {name_or_id}: no move of this id or VM is known here", "see bascule moves")

    def outgoing(self, move_id: str) -> SourceMove | None:
        """Return a move that is under way from here."""
        return self._outgoing.get(move_id)

    def incoming_vms(self) -> list[Move]:
        """Return the moves under way to here that are not decided."""
        return [incoming.move for incoming in self._incoming.values()]

    async def summaries(self) -> list[dict[str, Any]]:
        """Return all moves that this host took part in, newest first."""
        records = [*await self._host.journal.moves("source"), *await self._host.journal.moves("destination")]
        records.sort(key=lambda record: record.started_at, reverse=True)
        return [self.summary(record) for record in records]

    def summary(self, record: MoveRecord) -> dict[str, Any]:
        """Return one move in short."""
        move = record.move
        outgoing = self._outgoing.get(move.id) if record.side == "source" else None
        incoming = self._incoming.get(move.id) if record.side == "destination" else None
        phase = "ended"
        if outgoing is not None:
            phase = phase_name(outgoing.state)
        elif incoming is not None:
            phase = type(incoming.state).__name__.lower()
        return {
            "id": move.id,
            "vm": move.vm,
            "source": move.source,
            "destination": move.destination,
            "mode": move.mode.value,
            "side": record.side,
            "phase": phase,
            "outcome": record.outcome,
            "reason": record.reason,
            "started_at": record.started_at,
            "total_s": record.report.get("total_s") if record.report else None,
        }

    # --- as the destination ------------------------------------------------------------------------------------------

    async def prepare(self, body: Mapping[str, Any]) -> str:
        """Start the destination's side, and return the address where QEMU waits."""
        host = self._host
        move = move_from_dict(body["move"])
        if move.destination != host.name:
            raise Refused(
                f"cannot take part in move {move.id}: it is for host {move.destination}, and this is {host.name}",
                "correct the addresses under [hosts] in the agents' configurations",
            )
        incoming = self._incoming.get(move.id)
        if incoming is None:
            started_at = datetime.now(UTC).isoformat(timespec="microseconds")
            peer = host.config.address_of(move.source)
            record = MoveRecord(
                move, "destination", peer, started_at, body["definition"], accelerator=body["accelerator"]
            )
            await host.journal.begin_move(record)
            incoming = DestinationMove(host, record)
            self._run_incoming(incoming)
        return await incoming.prepared()

    def _run_incoming(self, incoming: DestinationMove, first: Any = None, vm: RunningVm | None = None) -> None:
        self._incoming[incoming.move.id] = incoming

        async def run() -> None:
            try:
                await incoming.run(first, vm)
            finally:
                if incoming.ended.is_set():
                    self._incoming.pop(incoming.move.id, None)

        self._tasks.spawn(run(), f"move {incoming.move.id} in")

    def source_stopped(self, move_id: str) -> None:
        """The source of this move says that the VM stands still."""
        if (incoming := self._incoming.get(move_id)) is not None:
            incoming.source_stopped()

    async def take(self, move_id: str, state_file: str | None) -> dict[str, Any]:
        """The source gives its word."""
        incoming = self._incoming.get(move_id)
        if incoming is not None:
            return await incoming.take(state_file)
        return await self._remembered(move_id, None, None)

    async def refuse(self, move_id: str, reason: str, vm_uuid: str, epoch: int) -> dict[str, Any]:
        """The source wants `refused`. For a move that never got here the register is written all the same."""
        incoming = self._incoming.get(move_id)
        if incoming is not None:
            return await incoming.refuse(reason)
        return await self._remembered(move_id, vm_uuid, epoch)

    async def _remembered(self, move_id: str, vm_uuid: str | None, epoch: int | None) -> dict[str, Any]:
        """Answer for a move that is not under way here, from the journal."""
        host = self._host
        record = await host.journal.move(move_id, "destination")
        if record is not None:
            vm_uuid, epoch = record.move.vm_uuid, record.move.epoch
        if vm_uuid is None or epoch is None:
            raise NotFound(f"move {move_id} is not known to host {host.name}")
        nobody = VmRecord(vm_uuid, "", {}, host.name, here=False, epoch=epoch)
        held = await host.journal.decide(vm_uuid, epoch, Decision.REFUSED, move_id, nobody)
        ran = held is Decision.TAKEN and record is not None and record.outcome == "completed"
        reason = record.reason if record is not None else f"host {host.name} had nothing of this move"
        times = {"asked": None, "loaded": None, "decided": None, "resumed": None}
        return {"decision": held.value, "running": ran, "reason": reason, "times_us": times}

    async def offer_standing(self, move_id: str) -> tuple[bool, str]:
        """Say to a destination whether this move's offer stands, or will."""
        if move_id in self._outgoing:
            return True, ""
        record = await self._host.journal.move(move_id, "source")
        if record is None:
            return False, f"host {self._host.name} knows nothing of move {move_id}"
        vm = await self._host.journal.vm_by_uuid(record.move.vm_uuid)
        if vm is not None and vm.offer is not None and vm.offer.move_id == move_id:
            return True, ""
        return False, record.reason or f"host {self._host.name} has withdrawn its offer"

    # --- after a restart ---------------------------------------------------------------------------------------------

    async def recover(self) -> set[str]:
        """Go on with what an earlier agent left unfinished. Return the directories of the QEMUs that belong to it."""
        directories = set()
        for record in await self._host.journal.moves("destination", unfinished=True):
            directories |= await self._recover_incoming(record)
        for record in await self._host.journal.moves("source", unfinished=True):
            await self._recover_outgoing(record)
        return directories

    async def _recover_outgoing(self, record: MoveRecord) -> None:
        move = record.move
        vm_record = await self._host.journal.vm_by_uuid(move.vm_uuid)
        vm = self._host.machines.get(move.vm_uuid)
        if vm_record is None or not vm_record.here:
            await remove_what_was_saved(self._host, record, vm_record)
            if vm_record is not None and (vm_record.owner, vm_record.epoch) == (move.destination, move.epoch):
                reason, report = f"the VM runs on {move.destination}", bare_report(record, "the VM was handed over")
                await self._host.journal.end_move(move.id, "source", "completed", reason, report)
            else:
                reason = "a later move has taken the VM elsewhere"
                await self._host.journal.end_move(move.id, "source", "failed", reason, None)
            return
        if vm is None and vm_record.process is not None:
            # It lives and does not answer: nothing is known of its copy, so no word is given and nothing undone.
            reason = f"QEMU of vm {move.vm} on {move.source} does not answer; once it does, restart the agent there"
            self._log.error("unfinished move of a VM whose QEMU does not answer", move=move.id, vm=move.vm)
            await self._host.journal.end_move(move.id, "source", "unknown", reason, None)
            return
        if vm is None:
            self._log.error("unfinished move of a VM whose QEMU is gone", move=move.id, vm=move.vm)
            self._tasks.spawn(settle_without_process(self._host, record, vm_record), f"settle {move.id}")
            return
        offered = vm_record.offer is not None and vm_record.offer.move_id == move.id
        copy = await self._copy_of(vm, source_copy)
        self._log.info("going on with a move", move=move.id, vm=move.vm, offered=offered, copy=copy.name)
        story = Story(move, record.started_at, vm.accelerator, vm.definition.memory_mib)
        outgoing = SourceMove(self._host, vm, move, peer=record.peer, story=story, fixed_ms=Experience().fixed_ms)
        outgoing.checked.set_result(())
        first = resume_source(move, offered=offered, copy=copy, state_file=record.state_file, now=0.0)
        self._run_outgoing(outgoing, first)

    async def _recover_incoming(self, record: MoveRecord) -> set[str]:
        move = record.move
        decision = await self._host.journal.decision(move.vm_uuid, move.epoch)
        vm = self._host.machines.get(move.vm_uuid) if decision is Decision.TAKEN else None
        if vm is None and record.process is not None and decision is not Decision.TAKEN:
            with suppress(QemuExited):
                try:
                    vm = await self._host.machines.adopt(
                        record.definition or {}, record.process, record.accelerator or "tcg"
                    )
                except BasculeError as error:
                    if isinstance(error, QemuExited):
                        raise
                    self._log.error("incoming VM cannot be adopted", move=move.id, why=str(error))
        if vm is None and decision is None:
            # It is gone, or does not answer and is of no use: the sweep ends it, but not before this is written.
            nobody = VmRecord(move.vm_uuid, move.vm, {}, move.destination, here=False, epoch=move.epoch)
            decision = await self._host.journal.decide(move.vm_uuid, move.epoch, Decision.REFUSED, move.id, nobody)
        copy = await self._copy_of(vm, _incoming_copy) if vm is not None else Copy.GONE
        self._log.info("going on with an incoming move", move=move.id, vm=move.vm, decision=decision, copy=copy.name)
        incoming = DestinationMove(self._host, record)
        first = resume_destination(move, decision=decision, copy=copy, now=0.0)
        self._run_incoming(incoming, first, vm)
        return {str(record.process["directory"])} if record.process and vm is not None else set()

    async def _copy_of(self, vm: RunningVm, read: Callable[[str, str], Copy]) -> Copy:
        try:
            stats = await MigrationControl(vm.machine, self._host.features).query()
            return read(stats.status, await vm.machine.status())
        except QemuExited:
            return Copy.GONE
        except BasculeError:
            return Copy.UNDER_WAY

    async def waiting_for(self) -> Sequence[str]:
        """Return the ids of all moves under way."""
        return [*self._outgoing, *self._incoming]


def _incoming_copy(migration_status: str, _run_state: str) -> Copy:
    """Read QEMU's `query-migrate` on a destination."""
    match migration_status:
        case "none" | "failed" | "cancelled":
            return Copy.NONE
        case "completed":
            return Copy.COMPLETE
        case _:
            return Copy.UNDER_WAY
