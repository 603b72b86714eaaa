"""The source's side of a move: the shell around `migration.source`.

One task owns a move. QEMU's events, the other agent's answers, the user's wish to cancel and a ticking clock are
delivered to the engine as facts, in one event loop, without waiting in between; each command of the engine is performed
by a task of its own, whose result comes back as a fact. Nothing here decides anything.

While the VM stands still nothing is done that is not on the way to its running again: facts are kept in memory and
written to the journal afterwards.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, assert_never

import structlog

from bascule.agent import gate
from bascule.agent.clock import ClockOffset, wall_us
from bascule.agent.departure_watch import DepartureWatch
from bascule.agent.frames_out import FramesOut
from bascule.agent.host import Host
from bascule.agent.look_back import look_back
from bascule.agent.machines import RunningVm
from bascule.agent.peers import NoAnswerError
from bascule.agent.progress import Watchers
from bascule.agent.quick import remove_saved_state, save_state, sweep_saved_state
from bascule.agent.register_questions import ask_register
from bascule.agent.switchover_line import SwitchoverLine
from bascule.errors import BasculeError, Finding, Unknown
from bascule.journal.records import FactRecord, move_to_dict
from bascule.migration import commands as do
from bascule.migration import facts, source
from bascule.migration.model import Mode, Move, Outcome
from bascule.migration.ownership import Offer
from bascule.migration.story import Story
from bascule.qemu.migration_control import MigrationControl, MigrationParameters
from bascule.qemu.qmp import QmpEvent

TICK_S = 0.1
AGAIN_S = 1.0
NEAR_S = 1.0  # a first round that ends within this time may be followed by the switchover
CLEAN_DEADLINE_S = 10.0
STANDING_STILL = (source.SwitchingOver, source.Deciding)
# What waits for the other agent, and need not be waited for once the move has ended.
QUESTIONS = (do.CheckBothSides, do.PrepareDestination, do.TellStopped, do.AskTake, do.AskRefuse)


class SourceMove:
    """One move of a VM away from this host."""

    def __init__(
        self,
        host: Host,
        vm: RunningVm,
        move: Move,
        *,
        peer: str,
        story: Story,
        fixed_ms: float,
        began_s: float | None = None,
    ) -> None:
        """`began_s`: when the move began, which `story.started_at` tells, by the event loop's clock; None is now."""
        self.move = move
        self.vm = vm
        self.peer = peer
        self.story = story
        self.watchers = Watchers(move.id)
        self.state: source.State = source.Checking(move)
        self.outcome: Outcome | None = None
        self.reason = ""
        self.report: dict[str, Any] | None = None
        self.checked: asyncio.Future[tuple[Finding, ...]] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self.over = asyncio.Event()  # nothing of this move holds the VM any more
        self._host = host
        self._fixed_ms = fixed_ms
        self._control = MigrationControl(vm.machine, host.features)
        self._departure = DepartureWatch(
            move, peer, host.peers, vm.network, spawn=host.moves.beside, amend=host.journal.amend_network
        )
        self._loop = asyncio.get_running_loop()
        self._zero = self._loop.time() if began_s is None else began_s
        self._tasks: asyncio.TaskGroup | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._saving: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._removing: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self._line: SwitchoverLine | None = None
        self._clocks: ClockOffset | None = None
        self._ending_copy: asyncio.Task[None] | None = None
        self._reading = False
        self._frames = FramesOut(host, vm, move, peer)
        self._log = structlog.get_logger().bind(move=move.id, vm=move.vm)

    # --- the life of the move ----------------------------------------------------------------------------------------

    async def run(self, first: source.Step | None = None) -> None:
        """Perform the move to its end. `first` is where a restarted agent goes on."""
        self._unsubscribe = self.vm.machine.subscribe(self._on_qemu_event)
        self.vm.on_back.append(self._look_again)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                watch = tasks.create_task(self._watch_process(), name=f"watch source of {self.move.id}")
                tick = tasks.create_task(self._tick(), name=f"tick of {self.move.id}")
                frames = tasks.create_task(self._frames.work(), name=f"frames of {self.move.id}")
                state, commands = first if first is not None else source.begin(self.move)
                if first is None and self.move.mode is Mode.LIVE:
                    self._frames.prepare()
                    self._host.moves.frames.expect_back(self.move.id, self._frames)
                self._enter(state, commands)
                await self.ended.wait()
                for task in (watch, tick, frames, *self._asking):
                    task.cancel()
        finally:
            self._host.urgency.release(f"{self.move.id} out")
            self._unsubscribe()
            self._host.moves.frames.ended(self.move.id)
            self.vm.on_back.remove(self._look_again)
            self._departure.release()
            await self._host.journal.flush_facts()

    def let_go(self) -> None:
        """The VM is free for another move: those who watch, or wait for this one's end, may know."""
        self.over.set()
        if self.report is not None:
            self.watchers.end(self.report)

    def cancel(self, who: str) -> tuple[bool, str]:
        """Ask for the end of the move. Return whether that is still possible, and what will happen."""
        if isinstance(self.state, source.Releasing | source.LettingGo | source.Confirming):
            return False, f"too late: vm {self.move.vm} belongs to {self.move.destination}"
        if isinstance(self.state, source.Ended):
            return False, "the move has ended already"
        if isinstance(self.state, source.Cancelling | source.Withdrawing | source.Resuming):
            return True, "the move is being undone already"
        self.deliver(facts.CancelAsked(who))
        return True, f"vm {self.move.vm} stays on {self.move.source}, unless {self.move.destination} has taken it"

    def deliver(self, fact: facts.SourceFact, at_s: float | None = None) -> None:
        """Give the engine one fact and start what it asks for."""
        now = self.now() if at_s is None else at_s
        state, commands = source.step(self.state, fact, now, fixed_ms=self._fixed_ms)
        if not isinstance(fact, facts.Tick | facts.CopyProgress) or commands:
            record = FactRecord(round(now, 6), type(fact).__name__, _plain(fact))
            self._host.journal.note_fact(self.move.id, "source", record)
        if isinstance(state, source.Copying | source.SwitchingOver):
            self.story.rounds = state.steering.rounds
        self._enter(state, commands)

    def now(self) -> float:
        """Seconds since the move began."""
        return self._loop.time() - self._zero

    def _moment_s(self, at_us: int) -> float:
        """As `now`, at a moment just past of this host's wall clock."""
        return self.now() - (wall_us() - at_us) / 1e6

    def _enter(self, state: source.State, commands: tuple[do.SourceCommand, ...]) -> None:
        changed = type(state) is not type(self.state) or not self.story.phases
        self.state = state
        if changed and isinstance(state, STANDING_STILL):
            self._host.urgency.hold(f"{self.move.id} out")
        elif changed:
            self._host.urgency.release(f"{self.move.id} out")
        if changed:
            name = phase_name(state)
            self.story.phase(name, self.now())
            self._log.debug("phase", phase=name)
            self._tell_watchers()
        for command in commands:
            task = self._spawn(self._perform(command), type(command).__name__)
            if isinstance(command, do.StartCopy):
                self._starting = task
            elif isinstance(command, do.RemoveSavedState):
                self._removing = task
            elif isinstance(command, QUESTIONS):
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)

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

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.deliver(facts.Tick())
            if isinstance(self.state, source.Copying) and not self._reading:
                self._spawn(self._read_copy(round_ended=False, at_s=None), "reading")
            if not isinstance(self.state, STANDING_STILL):
                with suppress(BasculeError):  # kept for the next time; a full disk must not end the move
                    await self._host.journal.flush_facts()

    async def _watch_process(self) -> None:
        status = await self.vm.machine.exited()
        if self._ending_copy is not None:  # a copy that has ended is not to be taken for complete
            await asyncio.wait([self._ending_copy])
        if not isinstance(self.state, source.Releasing | source.LettingGo | source.Confirming | source.Ended):
            self.deliver(facts.SourceGone(str(status)))

    # --- what QEMU says ----------------------------------------------------------------------------------------------

    def _on_qemu_event(self, event: QmpEvent) -> None:
        times = self.story.times
        if event.name == "STOP" and isinstance(self.state, source.Copying | source.Saving):
            times.stopped = event.at_us
            self._frames.stopped(event.at_us)
            self.vm.silence()  # its place may be elsewhere from now on
            self.story.mark("STOP", self._moment_s(event.at_us))
            self.deliver(facts.SourceStopped())
        elif event.name == "STOP" and isinstance(self.state, source.Cancelling) and times.stopped is None:
            times.stopped = event.at_us  # it was about to switch over when it was told to end
            self._frames.stopped(event.at_us)
            self.story.mark("STOP", self._moment_s(event.at_us))
        elif event.name == "RESUME" and times.stopped is not None:
            self._frames.runs_again(event.at_us)
        elif event.name == "MIGRATION_PASS" and isinstance(self.state, source.Copying):
            passes = int(event.data["pass"])
            self._spawn(self._read_copy(round_ended=passes > 1, at_s=self.now()), f"pass {passes}")
        elif event.name == "MIGRATION_PASS" and times.stopped is not None and times.counted is None:
            times.counted = event.at_us
        elif event.name == "MIGRATION" and self.move.mode is Mode.LIVE:
            self._on_migration_status(str(event.data["status"]), event.at_us)

    def _on_migration_status(self, status: str, at_us: int) -> None:
        if status == "completed":
            self.story.times.completed = at_us
            self.deliver(facts.CopyCompleted())
        elif status in ("failed", "cancelled"):
            self._ending_copy = self._spawn(self._copy_ended(status), "copy ended")

    def _look_again(self) -> None:
        """The session to QEMU was lost and stands again: learn what was missed."""
        if isinstance(self.state, source.Copying | source.SwitchingOver):
            self._spawn(self._learn_what_was_missed(), "look again")

    async def _learn_what_was_missed(self) -> None:
        stats = await self._control.query()
        stands_still = await self.vm.machine.status() != "running"
        if stands_still and isinstance(self.state, source.Copying):
            self.deliver(facts.SourceStopped())
        if stats.status in ("failed", "cancelled"):
            self.deliver(facts.CopyEnded(stats.error_desc or stats.status))
        elif stats.status == "completed" and stands_still:
            self.deliver(facts.CopyCompleted())

    async def _copy_ended(self, status: str) -> None:
        why = status
        with suppress(BasculeError):
            why = (await self._control.query()).error_desc or status
        self.deliver(facts.CopyEnded(why))

    async def _read_copy(self, *, round_ended: bool, at_s: float | None) -> None:
        """Ask QEMU how far the copy is: at the end of a round for the engine, in between for the pictures."""
        self._reading = True
        try:
            stats = await self._control.query()
        except BasculeError:
            return  # if QEMU is gone or frozen, other facts tell so
        finally:
            self._reading = False
        stopped = isinstance(self.state, source.SwitchingOver) and round_ended
        if not (stopped or isinstance(self.state, source.Copying)) or not stats.total_bytes:
            return
        now = self.now() if at_s is None else at_s
        transferred = stats.precopy_bytes if stopped else stats.transferred_bytes
        rate = self.story.sample(now, stats.remaining_bytes, transferred)
        progress = facts.CopyProgress(
            round=max(1, stats.dirty_sync_count),
            remaining_bytes=stats.remaining_bytes,
            transferred_bytes=transferred,
            bandwidth_bytes_per_s=stats.mbps * 125_000,
            at_round_end=round_ended,
        )
        if stats.dirty_sync_count > 1 or stats.remaining_bytes < NEAR_S * stats.mbps * 125_000:
            self._frames.near()
        self.deliver(progress, now)
        self._tell_watchers(progress, stats.total_bytes, rate)

    def _tell_watchers(
        self, progress: facts.CopyProgress | None = None, total_bytes: int = 0, rate_bytes_per_s: float = 0.0
    ) -> None:
        forecast_ms = None
        if isinstance(self.state, source.Copying) and self.state.steering.rounds:
            forecast_ms = self.state.steering.blackout_ms(self.state.steering.rounds[-1].remaining_bytes)
        self.watchers.tell(
            at_s=self.now(),
            phase=phase_name(self.state),
            copy=progress,
            total_bytes=total_bytes,
            rate_bytes_per_s=rate_bytes_per_s,
            forecast_blackout_ms=forecast_ms,
        )

    # --- what the engine asks for ------------------------------------------------------------------------------------

    async def _perform(self, command: do.SourceCommand) -> None:
        try:
            await self._do(command)
        except (BasculeError, NoAnswerError, OSError) as error:
            self._log.warning("command failed", command=type(command).__name__, error=str(error))
            self._tell_failure(command, str(error), uncertain=isinstance(error, Unknown))
        except Exception as error:  # an answer that makes no sense, or a fault of ours: the engine has to know
            self._log.exception("command failed", command=type(command).__name__)
            self._tell_failure(command, f"{type(error).__name__}: {error}", uncertain=True)

    def _tell_failure(self, command: do.SourceCommand, why: str, *, uncertain: bool) -> None:
        """A command that failed is a fact too. `uncertain`: it may have been performed, or may yet be."""
        match command:
            case do.CheckBothSides():
                findings = (Finding(f"host {self.move.destination}", why),)
                if not self.checked.done():
                    self.checked.set_result(findings)
                self.deliver(facts.Checked(findings))
            case do.PrepareDestination():
                self.deliver(facts.DestinationFailed(why))
            case (
                do.JournalOffer()
                | do.JournalWithdrawal()
                | do.JournalReturn()
                | do.JournalOverride()
                | do.DestroySource()
                | do.LetGo()
            ):
                self.deliver(facts.JournalFailed(why))
            case do.StartCopy() if uncertain:
                self._spawn(self._end_uncertain_copy(why), "end what may have begun")
            case do.CancelCopy():
                self.deliver(facts.CancelFailed(why))
            case do.StartCopy() | do.SaveState():
                self.deliver(facts.CopyEnded(why))
            case do.AskTake() | do.AskRefuse():
                self.deliver(facts.NoAnswer(why))
            case do.RunVcpus():
                self.deliver(facts.RunFailed(why))
            case _:
                pass  # nothing waits for it

    async def _do(self, command: do.SourceCommand) -> None:  # noqa: PLR0915 - one short case a command
        host, move = self._host, self.move
        match command:
            case do.CheckBothSides():
                findings = await host.preflight.check(move, self.vm, self.peer, self._fixed_ms)
                if not self.checked.done():
                    self.checked.set_result(findings)
                self.deliver(facts.Checked(findings))
            case do.PrepareDestination():
                body = {
                    "move": move_to_dict(move),
                    "definition": self.vm.definition_dict,
                    "accelerator": self.vm.accelerator,
                    "queue_frames": self._frames.queue_frames(),
                    "network": self._departure.addresses(),
                }
                path = "/v1/peer/moves"
                answer = await host.peers.ask(self.peer, "POST", path, body, deadline_s=60)
                if answer.get("tells_numbers"):
                    self._frames.tells_numbers()
                self.deliver(facts.DestinationReady(answer["address"]))
                self._clocks = await host.peers.clock_offset(self.peer)  # beside the copy, which takes longer
                self.story.times.destination_ahead_us = self._clocks.ahead_us
                self.story.times.error_us = self._clocks.error_us
                await self._departure.get_ready()
            case do.JournalOffer():
                await host.journal.offer(move.vm_uuid, Offer(move.destination, move.epoch, move.id))
                self.deliver(facts.OfferDurable())
            case do.StartCopy(address=address):
                self._frames.watch()
                await self._control.prepare(MigrationParameters())
                self._line = SwitchoverLine(host.peers, self.peer, move.id)
                self._asking.add(self._spawn(self._line.hold(), "line to the destination"))
                await self._control.start_outgoing(address)
            case do.SetDowntimeLimit(limit_ms=limit_ms):
                self._spawn(self._departure.tell_addresses(), "tell addresses")  # it is about to stop
                await self._control.set_downtime_limit(limit_ms)
            case do.SaveState():
                self._saving = asyncio.current_task()
                self._spawn(self._departure.tell_addresses(), "tell addresses")
                await self._save()
            case do.CancelCopy():
                await self._cancel_copy()
            case do.TellStopped():
                await self._tell_stopped()
            case do.AskTake() | do.AskRefuse():
                clean = isinstance(self.state, source.Withdrawing)
                answer = await ask_register(
                    host, self.peer, command, self.story, self.now(), line=self._line, clean=clean
                )
                self.deliver(answer)
            case do.JournalWithdrawal():
                await host.journal.withdraw(move)
                self.deliver(facts.WithdrawalDurable())
            case do.JournalReturn():
                await host.journal.note_return(move)
                self.deliver(facts.ReturnDurable())
            case do.JournalOverride():
                await host.claims.override(move, self.peer, against=move.destination)
                self.deliver(facts.OverrideDurable())
            case do.DestroySource():
                await self._destroy(None)
            case do.LetGo(outcome=outcome, reason=reason):
                await sweep_saved_state(host, move, self.vm.definition)
                await self._destroy(self.story.report(outcome, reason, self.now(), move.destination))
            case do.RemoveSavedState():
                await asyncio.to_thread(remove_saved_state, host, move, self.vm.definition)
            case do.RunVcpus():
                if await self.vm.machine.status() != "running":
                    await gate.let_run(host, move.vm_uuid, self.vm.machine)
                self._frames.run_on()
                with suppress(BasculeError):
                    await self._control.restore()
                self.deliver(facts.GuestRunning())
            case do.AnnounceHere():
                self.story.mark("announcement by the source", self.now())
                self._frames.stay()
                await self.vm.announce()
            case do.Conclude(outcome=outcome, reason=reason):
                await self._conclude(outcome, reason)
            case _:
                assert_never(command)

    async def _save(self) -> None:
        await self.vm.machine.stop_vcpus()
        path, written = await save_state(self._host, self.move, self.vm, self._control)
        self.story.transferred_bytes = written
        self.story.blackout_bytes = written
        await self._host.journal.note_state_file(self.move.id, str(path))
        self.story.times.saved = self.story.times.completed = wall_us()
        self.deliver(facts.CopyCompleted(str(path)))

    async def _cancel_copy(self, why: str = "cancelled") -> None:
        if self._saving is not None and not self._saving.done():
            self._saving.cancel()
            await asyncio.wait([self._saving])
        if self._starting is not None:
            await asyncio.wait([self._starting])  # else the copy could begin after its end
        stats = await self._control.cancel()
        # Of a VM that came here by a migration, QEMU says `completed` until it begins another; such a VM runs. And a
        # saved state that the engine was not told of is no complete copy: the destination will never hear of it.
        live = self.move.mode is Mode.LIVE
        if live and stats.status == "completed" and await self.vm.machine.status() != "running":
            self.deliver(facts.CopyCompleted())
        else:
            self.deliver(facts.CopyEnded(why))

    async def _end_uncertain_copy(self, why: str) -> None:
        """QEMU did not say whether it began the copy: it has to say that there is none, before anything else."""
        while isinstance(self.state, source.Copying | source.SwitchingOver):
            try:
                await self._cancel_copy(why)
            except BasculeError as error:
                self._log.warning("copy cannot be ended yet", error=str(error))
                await asyncio.sleep(AGAIN_S)

    async def _destroy(self, ended: dict[str, Any] | None) -> None:
        """Journal who has the VM now, and with it the report of a move that has `ended` by that; then clean up."""
        if self.move.mode is Mode.LIVE:
            with suppress(BasculeError):
                stats = await self._control.query()
                self.story.transferred_bytes = max(self.story.transferred_bytes, stats.transferred_bytes)
                self.story.normal_pages, self.story.zero_pages = stats.normal_pages, stats.zero_pages
                self.story.page_bytes = stats.page_size
                self.story.blackout_bytes = stats.downtime_bytes
        if self.story.times.resumed is not None:
            self._departure.ran()
        looking = self._spawn(self._look_back(), "look back at the switchover")
        self._frames.count()
        await self._host.journal.release(self.move, ended)  # changes nothing where a later epoch is known
        leftover = ""
        try:
            await self._host.machines.destroy(self.vm)
        except (BasculeError, OSError) as error:
            leftover = str(error)
        await self._frames.finish()
        await asyncio.wait([looking])
        self.deliver(facts.CopyDestroyed(leftover))

    async def _tell_stopped(self) -> None:
        frames = self._frames.first_batch()
        try:
            if self._line is None or not self._line.stopped(frames):
                await self._host.peers.hand(self.peer, f"/v1/peer/moves/{self.move.id}/stopped", frames, deadline_s=2)
        finally:
            self._frames.told()

    async def _look_back(self) -> None:
        """What the report wants to know of the switchover beyond it: the clocks then, and the VM's first frame."""
        with suppress(BasculeError, NoAnswerError):
            await look_back(self._host.peers, self.peer, self.story, self._clocks)

    async def _conclude(self, outcome: Outcome, reason: str) -> None:
        self.outcome, self.reason = outcome, reason
        if not self.checked.done():
            self.checked.set_result(())
        self.story.network = self._departure.for_report()
        await self._frames.settle()
        self.story.frames = self._frames.report()
        final = isinstance(self.state, source.Ended)
        self.report = self.story.report(outcome, reason, self.now(), await self._owner() if final else None)
        if final and self._removing is not None:
            await asyncio.wait(
                [self._removing], timeout=CLEAN_DEADLINE_S
            )  # a restarted agent looks after unfinished moves alone
        while True:
            try:
                await self._host.journal.flush_facts()
                await self._host.journal.end_move(self.move.id, "source", outcome.value, reason, self.report)
                break
            except BasculeError as error:
                self._log.error("the end of the move cannot be written", outcome=outcome.value, error=str(error))
                if not final:
                    break
                await asyncio.sleep(AGAIN_S)
        self._log.info("move ended" if final else "move unsettled", outcome=outcome.value, reason=reason)
        if final:
            self._unsubscribe()
            self.ended.set()
        else:
            self.watchers.end(self.report)

    async def _owner(self) -> str | None:
        """The host that has the VM, as far as this one's journal knows."""
        with suppress(BasculeError):
            row = await self._host.journal.vm_by_uuid(self.move.vm_uuid)
            return row.owner if row is not None else None
        return None


def phase_name(state: source.State) -> str:
    """Return a state's name as users see it: `switching-over` for SwitchingOver."""
    name = type(state).__name__
    return "".join(f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def _plain(fact: facts.SourceFact) -> dict[str, Any]:
    return dataclasses.asdict(fact)
