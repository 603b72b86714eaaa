"""The destination's side of a move: the shell around `migration.destination`.

As on the source, one task owns the move, everything that happens is delivered to the engine as a fact, and each command
of the engine is performed by a task of its own. The source's questions (`take`, `refuse`) are facts too; their answers
wait until the register holds a value, and for `taken` until the VM runs.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, assert_never

import structlog

from bascule.agent import gate
from bascule.agent.clock import wall_us
from bascule.agent.frames_in import FramesIn
from bascule.agent.host import Host
from bascule.agent.incoming_copy import IncomingCopy
from bascule.agent.machines import RunningVm
from bascule.agent.peers import NoAnswerError
from bascule.errors import BasculeError, Failed, Refused
from bascule.journal.records import FactRecord, MoveRecord, VmRecord
from bascule.journal.register import JournalRegister
from bascule.migration import commands as do
from bascule.migration import destination, facts
from bascule.migration.model import Decision, Mode
from bascule.migration.ownership import BY_WORD_EPOCHS
from bascule.migration.register import Ballot
from bascule.network.first_frame import FirstFrameWatch
from bascule.network.handover.parcel import unpack
from bascule.network.receive_queue import bound_receive_queue
from bascule.network.tap import DEFAULT_QUEUE_FRAMES
from bascule.qemu.migration_control import MigrationControl, MigrationParameters, tcp_uri
from bascule.qemu.qmp import QmpError, QmpEvent
from bascule.vm.definition import Definition
from bascule.vm.serialise import from_dict

TICK_S = 0.25
QUIET_S = 2.0  # without news, facts are written
AGAIN_S = 1.0
ANSWER_WITHIN_S = destination.ARRIVAL_S + 0.5  # the source's next question may refuse what is overdue by then
RUN_FIRST_S = 0.02
GIVEN_BACK_WITHIN_S = 5.0  # else that cannot be written, and taps are not held for ever
HOLD_PLACES_AFTER_S = 0.02  # after the announcement and the answer to the source, which are waited for
RECEIVES = (destination.Receiving, destination.Loaded, destination.Taking, destination.Starting)
SETTLED = (destination.Ran, destination.Discarding, destination.Discarded)


class DestinationMove:
    """One move of a VM to this host."""

    def __init__(
        self,
        host: Host,
        record: MoveRecord,
        *,
        may_have_run: bool = False,
        queue_frames: int = DEFAULT_QUEUE_FRAMES,
    ) -> None:
        self.record = record
        self.move = record.move
        self.state: destination.State = destination.Preparing(record.move)
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()
        self._host = host
        self._incoming: RunningVm | None = None
        self._control: MigrationControl | None = None
        self._copy: IncomingCopy | None = None
        self._changed = asyncio.Condition()
        self._loop = asyncio.get_running_loop()
        self._zero = self._news_s = self._loop.time()
        self._tasks: asyncio.TaskGroup | None = None
        self._launching: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._times: dict[str, int | None] = {"asked": None, "loaded": None, "decided": None, "resumed": None}
        self._resumed = asyncio.Event()
        self._may_have_run = may_have_run  # whatever the marks say
        self._letting_run: asyncio.Task[None] | None = None
        self._addresses: object = None  # the guest's, as the source has learned them
        self._queue_frames = queue_frames
        self._frames: FramesIn | None = None
        self._log = structlog.get_logger().bind(move=self.move.id, vm=self.move.vm)

    # --- the life of the move ----------------------------------------------------------------------------------------

    async def run(self, first: destination.Step | None = None, incoming: RunningVm | None = None) -> None:
        """Perform the move to its end. `first` and `incoming` are where a restarted agent goes on."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                if incoming is not None:
                    self._hold(incoming, adopted=True)
                tick = tasks.create_task(self._tick(), name=f"tick of {self.move.id}")
                state, commands = first if first is not None else destination.begin(self.move)
                self._enter(state, commands)
                self.begun.set()
                if incoming is not None:
                    self._look_again()  # it may have loaded since it was asked
                await self.ended.wait()
                tick.cancel()
        finally:
            self._host.urgency.release(f"{self.move.id} in")
            self.begun.set()
            self._let_go()
            self._host.moves.frames.ended(self.move.id)
            await self._host.journal.flush_facts()

    def deliver(self, fact: facts.DestinationFact) -> None:
        """Give the engine one fact and start what it asks for."""
        now = self._loop.time() - self._zero
        if not isinstance(fact, facts.Tick):
            self._news_s = self._loop.time()
        state, commands = destination.step(self.state, fact, now)
        if not isinstance(fact, facts.Tick) or commands:
            record = FactRecord(round(now, 6), type(fact).__name__, dataclasses.asdict(fact))
            self._host.journal.note_fact(self.move.id, "destination", record)
        self._enter(state, commands)

    def _enter(self, state: destination.State, commands: tuple[do.DestinationCommand, ...]) -> None:
        changed = state != self.state
        self.state = state
        if isinstance(state, SETTLED):
            self._host.urgency.release(f"{self.move.id} in")
        for command in commands:
            task = self._spawn(self._perform(command), type(command).__name__)
            if isinstance(command, do.StartIncoming):
                self._launching = task
            elif isinstance(command, do.RunVcpus):
                self._letting_run = task
        if changed:
            self._spawn(self._tell_waiting(), "tell those who wait")
        if changed and isinstance(state, destination.Ran | destination.Discarded):
            self._spawn(self._conclude(), "conclude")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        if self._tasks is None:
            raise RuntimeError("the move is not under way")

        async def guarded() -> None:
            try:
                await work
            except Exception:  # one task's mistake must not end the move, which would leave the VM to nobody
                self._log.exception("task failed", task=name)

        task = self._tasks.create_task(guarded(), name=f"{name} of {self.move.id}")
        task.add_done_callback(lambda _task: work.close())  # a task that is cancelled at once never awaits it
        return task

    async def _tell_waiting(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.deliver(facts.Tick())
            if self._loop.time() - self._news_s > QUIET_S:  # nothing is written beside a switchover
                with suppress(BasculeError):
                    await self._host.journal.flush_facts()

    @property
    def definition(self) -> Definition:
        """The VM's definition."""
        return from_dict(self.record.definition or {})

    # --- what the source asks ----------------------------------------------------------------------------------------

    async def prepared(self) -> str:
        """Wait until QEMU waits for the state, and return its address. Raises Failed if that is not to be."""
        async with self._changed:
            await self._changed.wait_for(lambda: not isinstance(self.state, destination.Preparing))
        if isinstance(self.state, destination.Receiving):
            return self.state.address
        reason = getattr(self.state, "reason", "the move has gone on")
        raise Failed(reason)

    def learn_addresses(self, rows: object) -> None:
        """The source says which addresses the guest has, as `VmNetwork.to_json` writes them."""
        self._addresses = rows
        if self._incoming is not None and not isinstance(self.state, SETTLED):
            self._incoming.network.take(rows)

    def source_stopped(self, frames: bytes = b"") -> None:
        """The source says that the VM stands still; `frames` for it have come there since."""
        if isinstance(self.state, destination.Receiving | destination.Loaded):
            self._host.urgency.hold(f"{self.move.id} in")
        if self._frames is not None and (frames or isinstance(self.state, RECEIVES)):
            # At once: the source goes on sending frames, and the state may be complete before a command comes to run.
            with suppress(BasculeError):  # frames are beside the move
                self._frames.draw(unpack(frames))
        self.deliver(facts.StopNotice())

    async def take(self, state_file: str | None, *, last_copy: bool) -> dict[str, Any]:
        """The source gives its word. Return the decision, once there is one, and whether the VM runs here."""
        if self._times["asked"] is None:
            self._times["asked"] = wall_us()
        self.deliver(facts.TakeAsked(state_file, last_copy))
        return await self._answer()

    async def refuse(self, reason: str) -> dict[str, Any]:
        """The source wants the decision `refused`. Return the decision that was made."""
        self.deliver(facts.RefuseAsked(reason))
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        """Wait for what can be said for good, but not longer than whoever asks does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_WITHIN_S), self._changed:
                await self._changed.wait_for(lambda: isinstance(self.state, SETTLED) or self._ended_for_good)
        return self.view()

    @property
    def _ended_for_good(self) -> bool:
        """Whether it has ended here and may have run, and no operator has started it again, or is just doing so."""
        machines, uuid = self._host.machines, self.move.vm_uuid
        ended = isinstance(self.state, destination.Starting) and self.state.ended
        return ended and machines.get(uuid) is None and not machines.changing(uuid).locked()

    def view(self) -> dict[str, Any]:
        """Return what this side can say of the decision."""
        decision: Decision | None = None
        given_back, reason = False, f"{self.move.destination} is {type(self.state).__name__.lower()}"
        match self.state:
            case destination.Ran():
                decision, reason = Decision.TAKEN, ""
            case destination.Starting(failure=failure):
                decision, reason = Decision.TAKEN, failure
            case destination.Returning(reason=why):
                decision, reason = Decision.TAKEN, f"it is going to give the VM back: {why}"
            case destination.Discarding(reason=reason) | destination.Discarded(reason=reason):
                given_back = self.state.given_back
                decision = Decision.TAKEN if given_back else Decision.REFUSED
            case destination.Receiving(word_s=float()) if self.move.mode is Mode.QUICK or self.state.last_copy:
                reason = f"{self.move.destination} is loading the VM's state"
        return {
            "decision": decision.value if decision else None,
            "running": isinstance(self.state, destination.Ran),
            "given_back": given_back,
            "ended": self._ended_for_good,
            "loading": isinstance(self.state, destination.Receiving) and self.move.mode is Mode.QUICK,
            "reason": reason,
            "times_us": dict(self._times),
        }

    # --- what QEMU says ----------------------------------------------------------------------------------------------

    def _hold(self, incoming: RunningVm, *, adopted: bool = False) -> None:
        self._incoming = incoming
        self.learn_addresses(self._addresses)
        if self.move.mode is Mode.LIVE:
            taps = list(zip(incoming.taps, incoming.served_by_vhost(), strict=False))
            self._frames = FramesIn(self._host, self.move, self.record.peer, taps, incoming.places(), adopted=adopted)
            self._host.moves.frames.expect(self.move.id, self._frames)
        self._control = MigrationControl(incoming.machine, self._host.features)
        self._copy = IncomingCopy(
            self.move, self._control, self.deliver, lambda: isinstance(self.state, destination.Receiving)
        )
        self._unsubscribe = incoming.machine.subscribe(self._on_qemu_event)
        incoming.on_back.append(self._look_again)
        self._spawn(self._watch_process(incoming), "watch destination")
        with suppress(OSError):  # the report then says less
            names = [tap.name for tap in incoming.taps if not tap.closed]
            self._host.first_frames[self.move.id] = FirstFrameWatch(names)

    def _let_go(self) -> None:
        if not self._resumed.is_set() and (watch := self._host.first_frames.pop(self.move.id, None)) is not None:
            watch.close()
        self._unsubscribe()  # the VM may move on, and its QEMU's events are not ours any more
        if self._incoming is not None:
            self._incoming.before_end = None
            if self._look_again in self._incoming.on_back:
                self._incoming.on_back.remove(self._look_again)

    def _look_again(self) -> None:
        if self._copy is not None and isinstance(self.state, destination.Receiving):
            self._spawn(self._copy.look(), "look again")

    def _on_qemu_event(self, event: QmpEvent) -> None:
        if event.name == "RESUME":
            self._times["resumed"] = event.at_us
            self._resumed.set()
            if self._frames is not None:
                self._frames.ran()
                self._loop.call_later(HOLD_PLACES_AFTER_S, self._loop.run_in_executor, None, self._frames.hold_places)
            if (watch := self._host.first_frames.get(self.move.id)) is not None:
                watch.run(event.at_us, lambda: self._host.first_frames.pop(self.move.id, None))
        elif event.name == "MIGRATION":
            status = event.data["status"]
            if status == "active" and self._incoming is not None and isinstance(self.state, destination.Receiving):
                port = int(self.state.address.rpartition(":")[2] or 0)
                bound_receive_queue(self._incoming.machine.record.pid, port)
            elif status == "completed":
                self._times["loaded"] = event.at_us
            if self._copy is not None:
                self._copy.tell(status)

    async def _watch_process(self, incoming: RunningVm) -> None:
        exited = asyncio.ensure_future(incoming.machine.exited())
        ended = asyncio.ensure_future(self.ended.wait())
        await asyncio.wait({exited, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if exited.done() and not self.ended.is_set():
            if self._letting_run is not None:
                await asyncio.wait([self._letting_run])  # else its mark could come after the look at the marks
            said = incoming.machine.process.stderr_tail()
            reason = f"QEMU on {self.move.destination} {exited.result()}" + (f": {said}" if said else "")
            decided = isinstance(self.state, destination.Starting)
            never_ran = decided and self._never_ran()
            self.deliver(facts.NeverRan(reason) if never_ran else facts.IncomingBroken(reason))
        exited.cancel()

    # --- what the engine asks for ------------------------------------------------------------------------------------

    async def _perform(self, command: do.DestinationCommand) -> None:
        try:
            await self._do(command)
        except (BasculeError, NoAnswerError, OSError) as error:
            self._log.warning("command failed", command=type(command).__name__, error=str(error))
            self._tell_failure(command, str(error), said_no=isinstance(error, QmpError | Refused))
        except Exception as error:  # a request that makes no sense, or a fault of ours: the engine has to know
            self._log.exception("command failed", command=type(command).__name__)
            self._tell_failure(command, f"{type(error).__name__}: {error}")

    def _tell_failure(self, command: do.DestinationCommand, why: str, *, said_no: bool = False) -> None:
        """A command that failed is a fact too. `said_no`: QEMU or the gate itself said that it was not done."""
        match command:
            case do.StartIncoming() | do.LoadState():
                self.deliver(facts.IncomingBroken(why))
            case do.Decide() | do.JournalOverride() | do.GiveBack():
                self.deliver(facts.JournalFailed(why))
            case do.DestroyIncoming():
                self.deliver(facts.DestroyFailed(why))
            case do.RunVcpus():
                self.deliver(facts.RunFailed(why, never_ran=said_no and self._never_ran()))
            case _:
                pass  # nothing waits for it

    async def _do(self, command: do.DestinationCommand) -> None:
        host, move = self._host, self.move
        match command:
            case do.StartIncoming():
                await self._start_incoming()
            case do.LoadState(state_file=state_file):
                if self._copy is not None:
                    await self._copy.load(state_file)
            case do.Decide(decision=decision):
                register = JournalRegister(host.journal, self._taken_record(move.epoch))
                self._decided(await register.decide(Ballot.of(move), decision))
            case do.JournalOverride():
                taken = self._taken_record(move.epoch + BY_WORD_EPOCHS)
                self._may_have_run = True  # from here on it is not given back, whatever happens
                held = await host.claims.override(move, self.record.peer, against=move.source, taken=taken)
                self._decided(held)
            case do.GiveBack():
                await self._give_back()
            case do.AskSource():
                await self._ask_source()
            case do.LookAtIncoming():
                if self._copy is not None:
                    await self._copy.look_for_some_seconds()
            case do.DestroyIncoming():
                if self._launching is not None:
                    await asyncio.wait([self._launching])  # else it could be there after its end
                if self._incoming is not None:
                    await self._destroy(self._incoming)
                self.deliver(facts.IncomingDestroyed())
            case do.RunVcpus():
                await self._let_run()
            case do.AnnounceHere():
                await self._announce()
            case _:
                assert_never(command)

    async def _announce(self) -> None:
        if self._incoming is None:
            return
        if isinstance(self.state, destination.Starting) and "announced" in self._times:
            return  # frames are drawn here already, and the next announcement is that of the watch, at the run
        if isinstance(self.state, destination.Starting):
            await self._run_first()
        if isinstance(self.state, destination.Receiving | destination.Loaded) and self._frames is not None:
            self._frames.draw()
        self._times.setdefault("announced", wall_us())  # the first: frames are drawn here from then on
        await self._incoming.announce()

    async def _destroy(self, incoming: RunningVm) -> None:
        """End the copy here; what came for the VM meanwhile goes back to where it runs."""
        if (frames := self._frames) is None:
            await self._host.machines.destroy(incoming)
            return
        gone = asyncio.Event()
        self._spawn(frames.give_back(gone), "give frames back")
        try:
            await self._host.machines.destroy(incoming, before_taps=frames.until_quiet)
        finally:
            gone.set()

    def _decided(self, held: Decision) -> None:
        self._times["decided"] = wall_us()
        if held is Decision.TAKEN and self._incoming is not None:
            if self._frames is not None and self._incoming.taps:
                self._incoming.before_end = self._until_given_back
            self._host.machines.take_over(self._incoming)
        self.deliver(facts.Decided(held))

    async def _until_given_back(self) -> None:
        """QEMU has ended by itself: if the VM goes back unrun, frames come to its taps until its copy is destroyed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GIVEN_BACK_WITHIN_S):
                if self._letting_run is not None:
                    await asyncio.wait([self._letting_run])
                if self._never_ran():
                    await self.ended.wait()

    def _never_ran(self) -> bool:
        """Whether it is certain that no vCPU has run here. What an operator gave to this host is not given back."""
        return not self._may_have_run and not self._host.run_marks.may_have_run(self.move.vm_uuid)

    async def _give_back(self) -> None:
        """Give the VM back, unless an operator has started it here meanwhile: then it has run."""
        host, move = self._host, self.move
        async with host.machines.changing(move.vm_uuid):
            if host.run_marks.may_have_run(move.vm_uuid):
                vm = host.machines.get(move.vm_uuid)
                if vm is not None and await vm.machine.status() == "running":
                    self.deliver(facts.GuestRunning())
                else:
                    self.deliver(facts.RunFailed("it was started here meanwhile, and does not run"))
                return
            await host.journal.give_back(move)
        self.deliver(facts.GivenBack())

    async def _start_incoming(self) -> None:
        record = self.record
        self._host.run_marks.forget(self.move.vm_uuid)
        incoming = await self._host.machines.start_incoming(
            record.definition or {}, "kvm" if record.accelerator == "kvm" else "tcg", self._queue_frames
        )
        self._hold(incoming)
        await self._host.journal.note_incoming(self.move.id, incoming.machine.record.to_dict(), incoming.accelerator)
        address = ""
        if self.move.mode is Mode.LIVE and self._control is not None:
            config = self._host.config
            await self._control.prepare(MigrationParameters())
            port = await self._control.start_incoming(config.migration_address, self._host.migration_ports)
            address = tcp_uri(self._host.reachable_address, port)
        self.deliver(facts.IncomingReady(address))
        await incoming.network.find_wires()  # for the watch after the run

    def _taken_record(self, epoch: int) -> VmRecord:
        """What the journal holds of the VM once it is taken."""
        incoming = self._incoming
        definition = self.record.definition or {}
        return VmRecord(
            uuid=self.move.vm_uuid,
            name=self.move.vm,
            definition=definition,
            owner=self.move.destination,
            here=True,
            epoch=epoch,
            process=incoming.machine.record.to_dict() if incoming else None,
            accelerator=incoming.accelerator if incoming else None,
            wanted="running",
        )

    async def _let_run(self) -> None:
        vm = self._host.machines.get(self.move.vm_uuid)  # what was incoming, or what an operator has started since
        if vm is None or not vm.machine.process.alive:
            await self._tell_ended()
            return
        machine = vm.machine
        # Asked also where it must be paused: one that is just dying fails here, before a mark makes that uncertain.
        if await machine.status() != "running":
            if self._frames is not None:
                self._frames.run()
            await gate.let_run(self._host, self.move.vm_uuid, machine)
        with suppress(TimeoutError):  # the time for the report only: QEMU has said that the vCPUs run
            async with asyncio.timeout(1):
                await self._resumed.wait()
        self.deliver(facts.GuestRunning())
        if (resumed_us := self._times["resumed"]) is not None and isinstance(self.state, destination.Ran):
            vm.watch_arrival(
                self.move.id, resumed_us, guest_can_announce="announce-self" in self._host.features.commands
            )

    async def _tell_ended(self) -> None:
        """There is no QEMU of the VM, which was taken: it never ran, or it may have run and is its operator's to start.

        The second is for good, and told to a source that may let go of the VM on that word. So it is not told while an
        operator is just starting it: his mark is taken back if QEMU says no.
        """
        host, uuid = self._host, self.move.vm_uuid
        row = await host.journal.vm_by_uuid(uuid)
        reason = f"QEMU of vm {self.move.vm} has ended"
        starting = host.machines.changing(uuid).locked() or host.machines.get(uuid) is not None
        if not starting and self._never_ran():  # it ended before anybody told it to run
            self.deliver(facts.NeverRan(reason))
            return
        reason += f"; start it again: bascule vm start {self.move.vm}"
        self._log.warning("VM does not run", why=reason)
        self.deliver(facts.RunFailed(reason, ended=not starting and row is not None and row.here))

    async def _restore(self) -> None:
        """Put back what the move has raised in the VM's QEMU: after the blackout, and before the move is done with."""
        vm = self._host.machines.get(self.move.vm_uuid)
        while vm is not None and vm.busy is None and vm.machine.process.alive:  # its next move sets all of it anew
            try:
                await MigrationControl(vm.machine, self._host.features).restore()
                break
            except BasculeError as error:
                self._log.warning("QEMU's limits cannot be put back yet", error=str(error))
                await asyncio.sleep(AGAIN_S)

    async def _run_first(self) -> None:
        """Let the VM run before anything else is done: an announcement floods every port of the bridge."""
        with suppress(TimeoutError):
            async with asyncio.timeout(RUN_FIRST_S):
                await self._resumed.wait()

    async def _ask_source(self) -> None:
        """A silent source may have withdrawn. Without its answer nothing changes here."""
        path = f"/v1/peer/moves/{self.move.id}/offer?vm_uuid={self.move.vm_uuid}"
        try:
            answer = await self._host.peers.ask(self.record.peer, "GET", path, deadline_s=3)
        except (NoAnswerError, BasculeError):
            return
        if not answer["standing"]:
            self.deliver(facts.RefuseAsked(answer["reason"]))

    async def _conclude(self) -> None:
        ran = isinstance(self.state, destination.Ran)
        reason = "" if ran else getattr(self.state, "reason", "")
        given_back = isinstance(self.state, destination.Discarded) and self.state.given_back
        outcome = "completed" if ran else "failed" if given_back else "refused"
        if ran:
            await self._restore()
        while True:
            try:
                await self._host.journal.end_incoming(self.move, outcome, reason)
                break
            except BasculeError as error:
                self._log.error("the end of the move cannot be written", outcome=outcome, error=str(error))
                await asyncio.sleep(AGAIN_S)
        self._log.info("incoming move ended", outcome=outcome, reason=reason)
        self._let_go()
        self.ended.set()
