"""A world of two hosts around the real engine: QEMUs, journals, agents and a network.

The engine is the product's; everything else is a model of what it drives. `choices` lists what may happen next, and
each choice is one atomic step, so that a test can interleave them at will: commands are performed in any order that
`migration.commands` does not rule out, messages overtake one another, and an answer says what was so when it was made,
which may be long before it is read. What goes wrong besides is in `world.World`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

from tests.unit.migration.world_parts import JOURNAL_WRITES, WAITS_FOR, Choice, Pending, Qemu, Request

from bascule.migration import commands as do
from bascule.migration import destination, facts, source
from bascule.migration.model import Decision, Mode, Move, Outcome
from bascule.migration.ownership import Offer, Ownership, why_not_run
from bascule.migration.recovery import Copy


@dataclass
class CalmWorld:
    """Two hosts, A the source and B the destination, and one move after the other."""

    mode: Mode = Mode.LIVE
    earlier: bool = False
    story: list[str] = field(default_factory=list)
    walked: set[tuple[type, type]] = field(default_factory=set)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.a_qemu = Qemu(running=True, earlier=self.earlier)
        self.b_qemu: Qemu | None = None
        self.a_owns = Ownership("uuid", "A", epoch=1)
        self.registers: dict[int, Decision] = {}
        self.lives = count(1)
        self.a_life = self.b_life = next(self.lives)
        self.numbers = count(1)
        self.begin_move()

    def begin_move(self) -> None:
        """Move the VM of A to B (once more)."""
        self.move = Move(f"m{next(self.numbers)}", "web", "uuid", "A", "B", self.a_owns.epoch + 1, self.mode)
        self.concluded: list[do.Conclude] = []
        self.ended_durably = False
        self.saved = ""  # of a Quick Migration's state there is "", a "part", or the "whole"
        self.state_file: str | None = None  # what A's journal says of it
        self.saving_life: int | None = None  # which life of A's agent is saving it
        self.pending: list[Pending] = []
        self.b: destination.State | None = None
        self.b_qemu = None
        self.b_known = False  # B's journal holds the move
        self.b_durable_end: destination.State | None = None
        self.b_ran = False
        self.a: source.State | None
        self.a, commands = source.begin(self.move)
        self._todo("A", commands)

    @property
    def register(self) -> Decision | None:
        """What B's journal holds for this move's epoch."""
        return self.registers.get(self.move.epoch)

    # --- delivering facts --------------------------------------------------------------------------------------------

    def tell_a(self, fact: facts.SourceFact) -> None:
        """Give A's engine a fact, if its agent lives."""
        if self.a is None:
            return
        before = self.a
        self.a, commands = source.step(self.a, fact, self.now)
        if type(self.a) is not type(before):
            assert type(self.a) in source.SUCCESSORS[type(before)], (before, fact, self.a)
            self.walked.add((type(before), type(self.a)))
            if isinstance(self.a, source.Ended) and self.a.ending.outcome is Outcome.CANCELLED:
                assert self.a_qemu.running, "cancelled, and yet the VM does not run on"
            if isinstance(self.a, source.Withdrawing) and self.mode is Mode.LIVE:
                assert self.a_qemu.copy is not Copy.COMPLETE, "withdrawn, and yet completely sent"
        if isinstance(self.a, source.Resuming):
            assert self.register is Decision.REFUSED, "the source resumes without `refused`"
        self._todo("A", commands)

    def tell_b(self, fact: facts.DestinationFact) -> None:
        """Give B's engine a fact, if its agent lives."""
        if self.b is None:
            return
        before = self.b
        self.b, commands = destination.step(self.b, fact, self.now)
        if type(self.b) is not type(before):
            assert type(self.b) in destination.SUCCESSORS[type(before)], (before, fact, self.b)
            self.walked.add((type(before), type(self.b)))
            if isinstance(self.b, destination.Ran | destination.Discarded):
                self._later("B", "notes its end", self._b_notes_its_end)
        self._todo("B", commands)

    def _b_notes_its_end(self) -> None:
        self.b_durable_end = self.b

    def _todo(self, side: str, commands: tuple[object, ...]) -> None:
        for command in commands:
            withdrawn = self.mode is Mode.QUICK and isinstance(self.a, source.Withdrawing)
            if isinstance(command, do.AskRefuse) and not withdrawn:
                lost = not self.a_qemu.alive and self.a_qemu.copy is Copy.COMPLETE
                assert not lost or self.register is not None, "what may be the last good copy was given up"
            perform = self._do_a if side == "A" else self._do_b
            self.pending.append(Pending(side, type(command).__name__, partial(perform, command), command))

    def _later(self, side: str, name: str, effect: Callable[[], None], request: Request | None = None) -> None:
        self.pending.append(Pending(side, name, effect, request=request))

    # --- performing the source's commands ----------------------------------------------------------------------------

    def _do_a(self, command: do.SourceCommand) -> None:
        match command:
            case do.CheckBothSides():
                self.tell_a(facts.Checked())
            case do.PrepareDestination():
                request = Request("prepare", self.a_life)
                self._later("net", "prepare", lambda: self._b_prepares(request), request)
            case do.JournalOffer():
                self.a_owns = replace(self.a_owns, offer=Offer("B", self.move.epoch, self.move.id))
                self.tell_a(facts.OfferDurable())
            case do.StartCopy():
                if self.a_qemu.alive:
                    assert self.a_owns.offer is not None, "the copy started before the offer was durable"
                    self.a_qemu.copy = Copy.UNDER_WAY
            case do.SaveState():
                if self.a_qemu.alive:
                    assert self.a_owns.offer is not None
                    self.a_qemu.running = False
                    self.a_qemu.copy = Copy.UNDER_WAY
                    self.saved, self.saving_life = "part", self.a_life
                    self.tell_a(facts.SourceStopped())
                else:
                    self.tell_a(facts.CopyEnded("QEMU is dead"))
            case do.CancelCopy():
                self._cancel_copy()
            case do.TellStopped():
                self._later("net", "stopped", lambda: self.tell_b(facts.StopNotice()))
            case do.AskTake(state_file=state_file):
                complete = self.a_qemu.copy is Copy.COMPLETE or not self.a_qemu.alive
                assert complete, "word given without a complete copy"
                assert self.mode is Mode.LIVE or state_file is not None
                self._ask("take", facts.TakeAsked(state_file))
            case do.AskRefuse(reason=reason):
                self._ask("refuse", facts.RefuseAsked(reason))
            case do.JournalWithdrawal():
                if self.a_owns.owner == "A":
                    self.a_owns = Ownership("uuid", "A", self.move.epoch)  # the epoch is used up all the same
                self.tell_a(facts.WithdrawalDurable())
            case do.DestroySource():
                self._release()
                self.tell_a(facts.CopyDestroyed())
            case do.RemoveSavedState():
                self.saved = ""
            case do.RunVcpus():
                self._run_a()
            case do.Conclude():
                self.concluded.append(command)
                self.ended_durably = isinstance(self.a, source.Ended)
            case do.SetDowntimeLimit() | do.AnnounceHere():
                pass

    def _release(self) -> None:
        assert self.register is Decision.TAKEN, "the source was destroyed without a decision"
        assert self.b_ran, "the source was destroyed before the VM was known to run elsewhere"
        self.a_owns = Ownership("uuid", "B", self.move.epoch)
        self.a_qemu.alive = self.a_qemu.running = False

    def _run_a(self) -> None:
        if not self.a_qemu.alive:
            self.tell_a(facts.RunFailed("QEMU is dead"))
        elif self.a_qemu.running:
            self.tell_a(facts.GuestRunning())
        elif reason := why_not_run(self.a_owns, "A"):
            self.tell_a(facts.RunFailed(reason))
        else:
            self.a_qemu.running = True
            self.tell_a(facts.GuestRunning())

    def _cancel_copy(self) -> None:
        if self.mode is Mode.QUICK and self.a_qemu.alive:
            self._saving_fails("cancelled")
        elif not self.a_qemu.alive:
            self._stop_saving()
            self.tell_a(facts.CancelFailed("QEMU is dead"))
        elif self.a_qemu.as_source is Copy.COMPLETE:
            self.tell_a(facts.CopyCompleted())
        else:
            self._copy_fails()

    def _stop_saving(self) -> None:
        if self.a_qemu.copy is Copy.UNDER_WAY:
            self.a_qemu.copy = Copy.NONE
        if self.saving_life == self.a_life and self.state_file is None:
            self.saved = ""
        self.saving_life = None

    def _saving_fails(self, why: str) -> None:
        self._stop_saving()
        self.tell_a(facts.CopyEnded(why))

    def _copy_fails(self) -> None:
        if self.a_qemu.copy is Copy.UNDER_WAY:
            self.a_qemu.running = True  # QEMU resumes a source whose copy failed, by itself
            if self.b_qemu is not None and self.b_qemu.alive and self.b_qemu.copy is Copy.UNDER_WAY:
                self._b_breaks("the stream ended early")
        self.a_qemu.copy = Copy.NONE
        self.tell_a(facts.CopyEnded("failed"))

    def _b_breaks(self, why: str) -> None:
        assert self.b_qemu is not None
        self.b_qemu.alive = self.b_qemu.running = False
        self.tell_b(facts.IncomingBroken(why))

    # --- questions and answers ---------------------------------------------------------------------------------------

    def _ask(self, name: str, question: facts.TakeAsked | facts.RefuseAsked) -> None:
        request = Request(name, self.a_life)
        self._later("net", name, lambda: self._b_is_asked(question, request), request)

    def _b_is_asked(self, question: facts.TakeAsked | facts.RefuseAsked, request: Request) -> None:
        if self.b is not None:
            self.tell_b(question)
            self._later("net", "B answers", lambda: self._b_answers(request), request)
        elif self.b_known:  # B's agent is down
            self._gives_up(request)
        elif isinstance(question, facts.RefuseAsked):
            self.registers.setdefault(self.move.epoch, Decision.REFUSED)
            self._reply(request, facts.Answer(Decision.REFUSED, reason="unknown here"))
        else:
            self._reply(request, facts.NoAnswer("unknown here"))

    def _b_answers(self, request: Request) -> None:
        """The answer says what is so now; it may be read much later."""
        match self.b:
            case None:
                self._gives_up(request)
            case destination.Ran():
                self._reply(request, facts.Answer(Decision.TAKEN, running=True))
            case destination.Starting():
                self._reply(request, facts.Answer(Decision.TAKEN, running=False))
            case destination.Discarding(reason=reason) | destination.Discarded(reason=reason):
                self._reply(request, facts.Answer(Decision.REFUSED, reason=reason))
            case _:
                self._reply(request, facts.NoAnswer("not decided yet"))

    def _reply(self, request: Request, answer: facts.SourceFact) -> None:
        self._later("net", "answer", lambda: self._a_reads(request, answer), request)

    def _a_reads(self, request: Request, answer: facts.SourceFact) -> None:
        if request.waiting and request.asked_by == self.a_life:
            request.waiting = False
            self.tell_a(answer)

    def _gives_up(self, request: Request) -> None:
        """A waits no longer, though the question or its answer may still be on the way."""
        answer = facts.DestinationFailed if request.name == "prepare" else facts.NoAnswer
        self._a_reads(request, answer("no answer"))

    def _a_says_whether_the_offer_stands(self, asked_by: int) -> None:
        if self.a is None:
            return
        if isinstance(self.a, source.Ended) and self.a_owns.offer is None:
            self._later("net", "the offer does not stand", lambda: self._b_reads(asked_by))

    def _b_reads(self, asked_by: int) -> None:
        if asked_by == self.b_life:
            self.tell_b(facts.RefuseAsked("withdrawn"))

    # --- performing the destination's commands -----------------------------------------------------------------------

    def _b_prepares(self, request: Request) -> None:
        if self.register is not None or (self.b_known and self.b is None):
            self._gives_up(request)
            return
        if not self.b_known:
            self.b_known = True
            self.b, commands = destination.begin(self.move)
            self._todo("B", commands)
        self._later("net", "B is prepared", lambda: self._b_is_prepared(request), request)

    def _b_is_prepared(self, request: Request) -> None:
        match self.b:
            case destination.Preparing():
                self._later("net", "B is prepared", lambda: self._b_is_prepared(request), request)
            case destination.Receiving():
                self._reply(request, facts.DestinationReady("tcp:b:1"))
            case _:
                self._gives_up(request)

    def _do_b(self, command: do.DestinationCommand) -> None:
        match command:
            case do.StartIncoming():
                self.b_qemu = Qemu(copy=Copy.UNDER_WAY if self.mode is Mode.LIVE else Copy.NONE)
                self.tell_b(facts.IncomingReady("tcp:b:1"))
            case do.LoadState():
                if self.b_qemu is not None and self.b_qemu.alive:
                    if self.saved == "whole" and self.b_qemu.copy is Copy.NONE:
                        self.b_qemu.copy = Copy.UNDER_WAY
                    else:
                        self.tell_b(facts.IncomingBroken("it cannot be loaded"))
            case do.Decide(decision=decision):
                self.tell_b(facts.Decided(self.registers.setdefault(self.move.epoch, decision)))
            case do.AskSource():
                life = self.b_life
                self._later("net", "asked for the offer", lambda: self._a_says_whether_the_offer_stands(life))
            case do.DestroyIncoming():
                assert self.register is Decision.REFUSED, "the incoming copy was destroyed without `refused`"
                if self.b_qemu is not None:
                    self.b_qemu.alive = self.b_qemu.running = False
                self.tell_b(facts.IncomingDestroyed())
            case do.RunVcpus():
                self._run_b()
            case do.AnnounceHere():
                pass

    def _run_b(self) -> None:
        if self.b_qemu is None or not self.b_qemu.alive:
            self.tell_b(facts.RunFailed("QEMU is dead"))
            return
        assert self.register is Decision.TAKEN, "the destination ran before the decision"
        assert self.b_qemu.copy is Copy.COMPLETE, "the destination ran half a VM"
        self.b_qemu.running = self.b_ran = True
        self.tell_b(facts.GuestRunning())

    # --- what may happen next ----------------------------------------------------------------------------------------

    def choices(self) -> list[Choice]:
        """Everything that may happen now without anything going wrong."""
        pending = [(f"{item.side}: {item.name}", partial(self._happens, item)) for item in self.possible()]
        return [*pending, *self._qemus_go_on(), ("time passes", self._tick)]

    def possible(self) -> Iterator[Pending]:
        """What is asked for and may be done now."""
        for index, item in enumerate(self.pending):
            if (item.side == "A" and self.a is None) or (item.side == "B" and self.b is None):
                continue
            before = [other.command for other in self.pending[:index] if other.side == item.side and other.command]
            first: tuple[type, ...] = WAITS_FOR.get(type(item.command), ())
            if isinstance(item.command, JOURNAL_WRITES):
                first = JOURNAL_WRITES
            if isinstance(item.command, do.Conclude):
                first = (object,)
            if not any(isinstance(other, first) for other in before):
                yield item

    def _happens(self, item: Pending) -> None:
        self.pending.remove(item)
        item.effect()

    def _qemus_go_on(self) -> Iterator[Choice]:
        a, b = self.a_qemu, self.b_qemu
        sending = a.alive and a.copy is Copy.UNDER_WAY
        if self.mode is Mode.LIVE and sending:
            if b is None or not b.alive:
                yield "the stream breaks", self._copy_fails
            elif a.running:
                yield "A's QEMU stops the VM", self._stop_for_switchover
            elif b.copy is Copy.COMPLETE:
                yield "A's QEMU completes", self._completed
        if self.mode is Mode.QUICK and self.saving_life == self.a_life:
            if sending:
                yield "A's QEMU has written the state", self._written
            elif a.copy is Copy.COMPLETE:
                yield "the state is made durable", self._saved
            else:
                yield "the saving fails", partial(self._saving_fails, "QEMU has ended")
        arriving = (self.mode is Mode.QUICK or sending) and not a.running
        if b is not None and b.alive and b.copy is Copy.UNDER_WAY and arriving:
            yield "B's QEMU has loaded everything", self._loaded
        if isinstance(self.b, destination.Starting) and (b is None or not b.alive):
            yield "the operator starts the VM on B", self._started_by_the_operator

    def _stop_for_switchover(self) -> None:
        self.a_qemu.running = False
        self.tell_a(facts.SourceStopped())

    def _loaded(self) -> None:
        assert self.b_qemu is not None
        self.b_qemu.copy = Copy.COMPLETE
        self.tell_b(facts.IncomingLoaded())

    def _completed(self) -> None:
        self.a_qemu.copy = Copy.COMPLETE
        self.tell_a(facts.CopyCompleted())

    def _written(self) -> None:
        self.a_qemu.copy = Copy.COMPLETE

    def _saved(self) -> None:
        if self.saved == "part":
            self.saved = "whole"
            return
        self.state_file, self.saving_life = "state", None
        self.tell_a(facts.CopyCompleted("state"))

    def _started_by_the_operator(self) -> None:
        assert self.register is Decision.TAKEN
        self.b_qemu = Qemu(running=True, copy=Copy.COMPLETE)
        self.b_ran = True

    def _tick(self) -> None:
        self.now += 2.0
        self.tell_a(facts.Tick())
        self.tell_b(facts.Tick())
