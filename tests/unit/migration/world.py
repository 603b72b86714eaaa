"""The world of two hosts with everything that may go wrong in it, at any moment:

- a message is lost, comes twice, or comes so late that nobody waits for its answer any more;
- a journal write fails, with the write made or not; so do letting the VM run, cancelling, and removing a copy;
- a QEMU dies, also after the decision; an agent dies between any two steps, and comes back;
- the copy fails, a disk is full, a state cannot be loaded, the VM's name is taken on the destination;
- the user cancels, again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from tests.unit.migration.calm_world import CalmWorld
from tests.unit.migration.world_parts import Choice, Pending

from bascule.migration import commands as do
from bascule.migration import destination, facts, source
from bascule.migration.model import Decision, Mode, Outcome
from bascule.migration.recovery import Copy, resume_destination, resume_source

MOST_OF_A_KIND = 3  # so that a run comes to an end


@dataclass
class World(CalmWorld):
    """Two hosts on a bad day."""

    happened: dict[str, int] = field(default_factory=dict)

    def faults(self) -> list[Choice]:
        """Everything that may go wrong now."""
        found = [*self._network(), *self._commands(), *self._copies(), *self._deaths(), *self.comebacks()]
        return [
            (name, partial(self._counted, name, happen))
            for name, happen in found
            if self.happened.get(name.partition(":")[0], 0) < MOST_OF_A_KIND or name.endswith("is back")
        ]

    def _counted(self, name: str, happen: Callable[[], None]) -> None:
        kind = name.partition(":")[0]
        self.happened[kind] = self.happened.get(kind, 0) + 1
        happen()

    # --- messages ----------------------------------------------------------------------------------------------------

    def _network(self) -> Iterator[Choice]:
        for item in self.possible():
            if item.side != "net":
                continue
            yield f"lost: {item.name}", partial(self._lose, item)
            yield f"twice: {item.name}", partial(self._twice, item)
            if item.request is not None and item.request.waiting:
                yield f"given up: {item.name}", partial(self._gives_up, item.request)

    def _lose(self, item: Pending) -> None:
        self.pending.remove(item)
        if item.request is not None:
            self._gives_up(item.request)

    def _twice(self, item: Pending) -> None:
        self.pending.append(Pending(item.side, item.name, item.effect, item.command, item.request))
        self._happens(item)

    # --- commands ----------------------------------------------------------------------------------------------------

    def _commands(self) -> Iterator[Choice]:
        for item in list(self.possible()):
            tell = self.tell_a if item.side == "A" else self.tell_b
            done, undone = f"told as failed: {item.name}", f"failed: {item.name}"
            match item.command:
                case do.JournalOffer() | do.JournalWithdrawal() | do.Decide():
                    yield undone, partial(self._fails, item, facts.JournalFailed("disk full"), tell)
                    yield done, partial(self._fails, item, facts.JournalFailed("disk full"), tell, done=True)
                    if item.command == do.Decide(Decision.TAKEN):
                        yield "another VM on B has the name", partial(self._name_conflict, item)
                case do.DestroySource():
                    yield undone, partial(self._fails, item, facts.JournalFailed("disk full"), tell)
                case do.RunVcpus():
                    yield undone, partial(self._fails, item, facts.RunFailed("no lock"), tell)
                    yield done, partial(self._fails, item, facts.RunFailed("no answer in time"), tell, done=True)
                case do.CancelCopy():
                    yield undone, partial(self._fails, item, facts.CancelFailed("no answer in time"), tell)
                    yield done, partial(self._fails, item, facts.CancelFailed("no answer in time"), tell, done=True)
                case do.DestroyIncoming():
                    yield undone, partial(self._fails, item, facts.DestroyFailed("it hangs"), tell)
                case do.StartIncoming():
                    yield undone, partial(self._fails, item, facts.IncomingBroken("no such machine"), tell)
                case do.Conclude():
                    yield undone, partial(self._told_but_not_noted, item)

    def _fails(self, item: Pending, failure: object, tell: Callable[[object], None], *, done: bool = False) -> None:
        """Perform it or not, and tell a failure in place of the result."""
        self.pending.remove(item)
        if done:
            a, b = self.a, self.b
            self.a = self.b = None  # nobody hears the result
            item.effect()
            self.a, self.b = a, b
        tell(failure)

    def _told_but_not_noted(self, item: Pending) -> None:
        self._happens(item)
        self.ended_durably = False

    def _name_conflict(self, item: Pending) -> None:
        """The journal answers a wish for `taken` with `refused`, unless it had written `taken` before."""
        self.registers.setdefault(self.move.epoch, Decision.REFUSED)
        self._happens(item)

    # --- copies, QEMUs and agents ------------------------------------------------------------------------------------

    def _copies(self) -> Iterator[Choice]:
        if self.a_qemu.alive and self.a_qemu.copy is Copy.UNDER_WAY and self.mode is Mode.LIVE:
            yield "the copy fails", self._copy_fails
        if self.saving_life == self.a_life:
            yield "the disk is full", partial(self._saving_fails, "no space left")
        if self.mode is Mode.QUICK and self.b_qemu is not None and self.b_qemu.copy is Copy.UNDER_WAY:
            yield "B's QEMU cannot load the state", partial(self._b_breaks, "bad state")

    def _deaths(self) -> Iterator[Choice]:
        if self.a is not None:
            yield "the user cancels", partial(self.tell_a, facts.CancelAsked())
            yield "A's agent dies", self._a_agent_dies
        if self.b is not None:
            yield "B's agent dies", self._b_agent_dies
        if self.b_qemu is not None and self.b_qemu.alive:
            yield "B's QEMU dies", partial(self._b_breaks, "killed")
        if self.a_qemu.alive and not isinstance(self.a, source.Ended):
            yield "A's QEMU dies", self._a_qemu_dies

    def _a_qemu_dies(self) -> None:
        a, b = self.a_qemu, self.b_qemu
        connected = self.mode is Mode.LIVE and a.copy is Copy.UNDER_WAY
        a.alive = a.running = False
        if connected and b is not None and b.alive and b.copy is Copy.UNDER_WAY:
            self._b_breaks("the stream ended early")
        if a.copy is Copy.UNDER_WAY:
            a.copy = Copy.NONE
        self.tell_a(facts.SourceGone("killed"))

    def _a_agent_dies(self) -> None:
        self.a, self.a_life = None, next(self.lives)
        self.pending = [item for item in self.pending if item.side != "A"]
        if self.mode is Mode.QUICK and self.a_qemu.copy is Copy.UNDER_WAY:
            self.a_qemu.copy = Copy.NONE  # the agent read the other end of QEMU's pipe

    def _b_agent_dies(self) -> None:
        self.b, self.b_life = None, next(self.lives)
        self.pending = [item for item in self.pending if item.side != "B"]

    def comebacks(self) -> Iterator[Choice]:
        """What ends the agents' absence."""
        if self.a is None:
            yield "A's agent is back", self._a_agent_back
        if self.b is None and self.b_known:
            yield "B's agent is back", self._b_agent_back

    def _a_agent_back(self) -> None:
        if self.ended_durably:
            self.a = source.Ended(self.move, source.Ending(self.concluded[-1].outcome, self.concluded[-1].reason))
        elif self.a_owns.owner != "A":
            self.a_qemu.alive = self.a_qemu.running = False
            self.saved = ""
            self.a = source.Ended(self.move, source.Ending(Outcome.COMPLETED, "the VM was released"))
            self._do_a(do.Conclude(Outcome.COMPLETED, "the VM was released"))
        else:
            offered = self.a_owns.offer is not None
            copy, file = self.a_qemu.as_source, self.state_file
            self.a, commands = resume_source(self.move, offered=offered, copy=copy, state_file=file, now=self.now)
            self._todo("A", commands)

    def _b_agent_back(self) -> None:
        if self.b_durable_end is not None:
            self.b = self.b_durable_end
            return
        copy = self.b_qemu.copy if self.b_qemu is not None and self.b_qemu.alive else Copy.GONE
        self.b, commands = resume_destination(self.move, decision=self.register, copy=copy, now=self.now)
        if isinstance(self.b, destination.Discarding) and copy is Copy.GONE:
            self.b_qemu = None
        self._todo("B", commands)

    # --- the rules ---------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Rule 1, and what leads to it."""
        b_runs = self.b_qemu is not None and self.b_qemu.running
        assert not (self.a_qemu.running and b_runs), "two hosts run the VM"
        assert not b_runs or self.register is Decision.TAKEN

    @property
    def settled(self) -> bool:
        """Whether both sides have ended and all that they asked for is done."""
        ended = isinstance(self.b, destination.Ran | destination.Discarded) or not self.b_known
        return not self.pending and isinstance(self.a, source.Ended) and ended
