"""The moves of this host: begin one, watch it, cancel it, and go on with it after a restart."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import structlog

from bascule.agent.destination_move import DestinationMove
from bascule.agent.frames_desk import FramesDesk
from bascule.agent.host import Host, resident_bytes
from bascule.agent.http_errors import NotFound
from bascule.agent.late_answers import answer_from_journal, ballot_of
from bascule.agent.machines import RunningVm
from bascule.agent.source_move import SourceMove, phase_name
from bascule.agent.tasks import TaskKeeper
from bascule.errors import Failed, Finding, Refused
from bascule.journal.records import Claim, MoveRecord, move_from_dict
from bascule.migration import destination, facts, source
from bascule.migration.forecast import Experience, Forecast, learn, predict
from bascule.migration.model import Decision, Goals, Mode, Move
from bascule.migration.register import Ballot
from bascule.migration.story import Story
from bascule.network.tap import DEFAULT_QUEUE_FRAMES

LEARNED_FROM = 40
OVER_S = 2.0
ARRIVAL_ANSWER_S = 12.0  # longer than a watch takes
CLEAN_WITHIN_S = 5.0  # less than the source waits for an answer


class Moves:
    """All moves that this host takes part in."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._outgoing: dict[str, SourceMove] = {}
        self._incoming: dict[str, DestinationMove] = {}
        self._beginning = asyncio.Lock()  # held while a move to here is made, so that no refusal passes it by
        self.frames = FramesDesk()
        self._tasks = TaskKeeper("moves")
        self._log = structlog.get_logger()

    async def close(self) -> None:
        """Leave all moves as they are; the next agent of this host goes on with them."""
        await self._tasks.close()
        self.frames.close()

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
        if (incoming := self.of_vm(record.uuid)[1]) is not None and not await over(incoming):
            raise Refused(
                f"cannot {attempted}: move {incoming.move.id}, which brings it here, is not over",
                f"bascule status {name}",
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
            began_s = asyncio.get_running_loop().time()  # the same moment by both clocks
            started_at = datetime.now(UTC).isoformat(timespec="microseconds")
            story = Story(move, started_at, vm.accelerator, vm.definition.memory_mib, forecast)
            await host.journal.begin_move(MoveRecord(move, "source", peer, started_at))
            outgoing = SourceMove(host, vm, move, peer=peer, story=story, fixed_ms=experience.fixed_ms, began_s=began_s)
        except BaseException:
            vm.busy = None
            raise
        self._run_outgoing(outgoing)
        findings = await outgoing.checked
        if findings:
            with suppress(TimeoutError):  # the next request must not meet the remains of this one
                async with asyncio.timeout(CLEAN_WITHIN_S):
                    await outgoing.over.wait()
            raise Refused.from_findings(f"move vm {name} to host {destination}", findings)
        return outgoing

    def _run_outgoing(self, outgoing: SourceMove, first: source.Step | None = None) -> None:
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
                    outgoing.let_go()

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
                return self._cancel_incoming(incoming, who)
        if await self._host.journal.move(name_or_id, "source") is not None:
            return False, "the move has ended already"
        raise NotFound(f"cannot cancel {name_or_id}: no move of this id or VM is known here", "see bascule moves")

    def _cancel_incoming(self, incoming: DestinationMove, who: str) -> tuple[bool, str]:
        """Give up a copy that is not complete. One that is may be the last, and is nobody's to refuse by a command."""
        move, state = incoming.move, incoming.state
        if not isinstance(state, destination.Preparing | destination.Receiving) or (
            isinstance(state, destination.Receiving) and state.word_s is not None
        ):
            raise Refused(
                f"cannot cancel move {move.id} on {move.destination}: the VM's state is here completely, or is decided",
                f"see bascule status {move.vm}; host {move.source} leads the move, and may still cancel it",
            )
        incoming.deliver(facts.RefuseAsked(f"cancelled by {who} on {move.destination}"))
        return True, f"the copy on {move.destination} is removed, and vm {move.vm} stays on {move.source}"

    def outgoing(self, move_id: str) -> SourceMove | None:
        """Return a move that is under way from here."""
        return self._outgoing.get(move_id)

    def incoming_vms(self) -> list[Move]:
        """Return the moves under way to here that are not decided."""
        return [incoming.move for incoming in self._incoming.values() if not incoming.ended.is_set()]

    def names(self) -> set[str]:
        """Return the names of the VMs that are moving from here or to here."""
        return {each.move.vm for each in self._outgoing.values()} | {each.move.vm for each in self._incoming.values()}

    async def summaries(self) -> list[dict[str, Any]]:
        """Return all moves that this host took part in, newest first."""
        records = await self._host.journal.moves_in_short()
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
        async with self._beginning:
            incoming = self._incoming.get(move.id)
            if incoming is None:
                incoming = await self._begin_incoming(move, body)
        return await incoming.prepared()

    async def _begin_incoming(self, move: Move, body: Mapping[str, Any]) -> DestinationMove:
        host = self._host
        started_at = datetime.now(UTC).isoformat(timespec="microseconds")
        peer = host.config.address_of(move.source)
        record = MoveRecord(move, "destination", peer, started_at, body["definition"], accelerator=body["accelerator"])
        await host.journal.begin_move(record)
        incoming = DestinationMove(host, record, queue_frames=int(body.get("queue_frames", DEFAULT_QUEUE_FRAMES)))
        incoming.learn_addresses(body.get("network"))
        self._run_incoming(incoming)
        await incoming.begun.wait()
        return incoming

    def _run_incoming(
        self, incoming: DestinationMove, first: destination.Step | None = None, vm: RunningVm | None = None
    ) -> None:
        self._incoming[incoming.move.id] = incoming

        async def run() -> None:
            try:
                await incoming.run(first, vm)
            finally:
                if incoming.ended.is_set():
                    self._incoming.pop(incoming.move.id, None)

        self._tasks.spawn(run(), f"move {incoming.move.id} in")

    def source_stopped(self, move_id: str, frames: bytes = b"") -> None:
        """The source of this move says that the VM stands still; `frames` for it have come there since."""
        if (incoming := self._incoming.get(move_id)) is not None:
            incoming.source_stopped(frames)

    def learn_addresses(self, move_id: str, rows: object) -> None:
        """The source of this move says which addresses the VM's guest has."""
        if (incoming := self._incoming.get(move_id)) is not None:
            incoming.learn_addresses(rows)

    async def arrival(self, move_id: str, vm_uuid: str, *, still_there: bool) -> dict[str, Any]:
        """What was seen of a VM's frames here after its move, once it is settled, or after some seconds.

        `still_there`: the source still gets some.
        """
        vm = self._host.machines.get(vm_uuid)
        watch = vm.arrival if vm is not None else None
        if watch is None or watch.move_id != move_id:
            return {"state": "not seen", "why": f"nobody on {self._host.name} watches any more"}
        if still_there:
            watch.announce_again()
        with suppress(TimeoutError):
            async with asyncio.timeout(ARRIVAL_ANSWER_S):
                await watch.settled.wait()
        return watch.finding()

    def beside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run what belongs to a move, but does not hold it up. It ends with the agent."""
        self._tasks.spawn(work, name)

    async def take(
        self, move_id: str, state_file: str | None, vm_uuid: str | None, epoch: int | None, *, last_copy: bool
    ) -> dict[str, Any]:
        """The source gives its word."""
        incoming = self._incoming.get(move_id)
        if incoming is not None:
            return await incoming.take(state_file, last_copy=last_copy)
        return await answer_from_journal(self._host, await ballot_of(self._host, move_id, vm_uuid, epoch))

    async def first_frame_us(self, move_id: str, patience_s: float) -> int | None:
        """When the VM of a move that came here sent its first frame, by the wall clock; None if it has not."""
        watch = self._host.first_frames.get(move_id)
        return await watch.first_us(patience_s) if watch is not None else None

    async def refuse(self, move_id: str, reason: str, vm_uuid: str, epoch: int, *, clean: bool) -> dict[str, Any]:
        """The source wants `refused`. For a move that never got here the register is written all the same.

        `clean`: it is in no hurry, and wants to hear of it when nothing of the move is left here, or after some time.
        """
        async with self._beginning:
            incoming = self._incoming.get(move_id)
        if incoming is not None:
            give_up_s = asyncio.get_running_loop().time() + CLEAN_WITHIN_S
            answer = await incoming.refuse(reason)
            if clean and answer["decision"] == Decision.REFUSED.value:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(give_up_s):
                        await incoming.ended.wait()
            return answer
        return await answer_from_journal(self._host, Ballot(vm_uuid, epoch, move_id))

    def stand_down(self, claim: Claim) -> bool:
        """Tell the moves of a VM that another host has it by an operator's word. Return whether there was one."""
        fact = facts.StoodDown(claim.owner, claim.reason)
        outgoing, incoming = self.of_vm(claim.vm_uuid)
        if outgoing is not None:
            outgoing.deliver(fact)
        if incoming is not None:
            incoming.deliver(fact)
        return outgoing is not None or incoming is not None

    def of_vm(self, vm_uuid: str) -> tuple[SourceMove | None, DestinationMove | None]:
        """Return the moves of a VM that are under way: from here, and to here."""
        outgoing = next((move for move in self._outgoing.values() if move.move.vm_uuid == vm_uuid), None)
        incoming = next((move for move in self._incoming.values() if move.move.vm_uuid == vm_uuid), None)
        return outgoing, incoming

    def of_name(self, name: str) -> tuple[SourceMove | None, DestinationMove | None]:
        """As `of_vm`, by the VM's name."""
        moves = [each.move for each in self._outgoing.values()] + [each.move for each in self._incoming.values()]
        uuid = next((move.vm_uuid for move in moves if move.vm == name), None)
        return self.of_vm(uuid) if uuid is not None else (None, None)

    # --- after a restart ---------------------------------------------------------------------------------------------

    def go_on_outgoing(self, outgoing: SourceMove, first: source.Step) -> None:
        """Go on with a move that an earlier agent began."""
        self._run_outgoing(outgoing, first)

    def go_on_incoming(self, incoming: DestinationMove, first: destination.Step, vm: RunningVm | None) -> None:
        """Go on with a move to here that an earlier agent began."""
        self._run_incoming(incoming, first, vm)

    async def waiting_for(self) -> Sequence[str]:
        """Return the ids of all moves under way."""
        return [*self._outgoing, *self._incoming]


async def over(move: SourceMove | DestinationMove) -> bool:
    """Wait a moment for a move that is all but over, and return whether the journal says how it ended.

    Until then the VM takes part in no other move: a restarted agent would go on with this one as if it were the last.
    """
    with suppress(TimeoutError):
        await asyncio.wait_for(move.ended.wait(), OVER_S)
    return move.ended.is_set()
