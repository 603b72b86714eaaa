"""Two hosts around the real engine, as one immutable value; and a draft of it, in which one step is made.

Durable on a host: who owns the VM, the register, the moves and how they ended, an operator's claim. Lost with the
agent: the engines, the commands being performed, the questions that wait. Lost with QEMU: its copy. The mark that vCPUs
may have run outlives both. In the network: questions and answers.

What no host can see is kept for the rules: at which epochs vCPUs ran where, which copies are behind, whether a killed
process took the only current copy with it, and whether an operator has decided.

A world is five numbers: the two hosts, what is in the network, the rest, and what may still go wrong. Equal worlds have
equal futures.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from tests.explorer.core import Core, Numbers

from bascule.migration import commands as do
from bascule.migration import source
from bascule.migration.model import Decision, Mode, Move
from bascule.migration.ownership import Ownership
from bascule.migration.recovery import Copy
from bascule.migration.register import Ballot, Entry

UUID = "uuid"
NAMES = ("X", "Y")
QUESTIONS = ("prepare", "take", "refuse", "offer", "claim")

V = TypeVar("V")


class Qemu(NamedTuple):
    """A QEMU process that lives.

    `move`: the last move before which it stood here, which is the one that it came in by, if it came in. `noted`: the
    journal names it. `arriving`: its source is gone since it stood still, and what it had sent may be everything;
    "silently" if nobody told it so. `earlier`: its last migration was one that ended long ago, of which it still says
    `completed`. `balky`: it says no when it is told to run. `stale`, which nobody can see: the VM has run elsewhere
    meanwhile.
    """

    move: int = 0
    running: bool = False
    incoming: Copy | None = None
    outgoing: Copy = Copy.NONE
    noted: bool = True
    earlier: bool = False
    balky: bool = False
    arriving: str = ""
    stale: bool = False

    @property
    def whole(self) -> bool:
        """Whether it holds the VM as it is now."""
        return not self.stale and self.incoming in (None, Copy.COMPLETE)


class Message(NamedTuple):
    """On its way to host `to`: a question about a move, or the answer to one."""

    to: int
    kind: str
    move: int
    fact: Any = None
    answer: bool = False


class HostState(NamedTuple):
    """A host. What belongs to a move is kept by the move's number, in order."""

    up: bool = True
    row: Ownership | None = None
    register: tuple[tuple[int, Entry, str], ...] = ()  # epoch, entry, fate
    records: tuple[tuple[int, str], ...] = ()  # move, outcome ("" while it is under way)
    named: tuple[int, ...] = ()  # Quick Migrations whose saved state is named durably
    claim: tuple[int, int] = (0, 0)  # epoch and move of a claim that was not heard; (0, 0): none
    marked: bool = False  # vCPUs may have run here since the last copy began to come in
    qemu: Qemu | None = None
    engines: tuple[tuple[int, int], ...] = ()  # move, state
    todo: tuple[tuple[int, int], ...] = ()  # move, command; in the order of asking
    asking: tuple[tuple[str, int], ...] = ()  # questions of this host without an answer so far
    waiting: tuple[tuple[str, int], ...] = ()  # questions of the other host that wait for a decision here
    ran: tuple[int, ...] = ()  # the epochs at which vCPUs ran here


class Rest(NamedTuple):
    """What belongs to no host."""

    moves: tuple[Move, ...] = ()
    saved: tuple[str, ...] = ()  # what there is of each move's saved state: "", "part", "whole", "stale"
    told: tuple[str, ...] = ()  # of each move, the last outcome told to the user
    lost: bool = False  # a process was killed that held the only current copy
    overruled: str = ""  # the host for which an operator has decided last


class Budget(NamedTuple):
    """What may still happen that is not of the move's own making."""

    faults: int = 0
    cancels: int = 0
    operators: int = 0


World = tuple[int, int, int, int, int]  # numbers of: X, Y, the network, the rest, the budget


class Broken(AssertionError):
    """A rule was broken."""


class Space:
    """All that worlds are made of, by number."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.hosts = Numbers()
        self.messages = Numbers()
        self.nets = Numbers()
        self.rests = Numbers()
        self.budgets = Numbers()
        self._changed_nets: dict[tuple[int, int | None, tuple[int, ...]], int] = {}

    def messages_in(self, net: int) -> tuple[tuple[int, int], ...]:
        """Return the messages in a network, each by its number, with how many there are of it."""
        messages: tuple[tuple[int, int], ...] = self.nets[net]
        return messages

    def changed_net(self, net: int, removed: int | None, sent: tuple[int, ...]) -> int:
        """Return the network without one message and with others."""
        key = (net, removed, sent)
        known = self._changed_nets.get(key)
        if known is None:
            counts = dict(self.nets[net])
            if removed is not None:
                counts[removed] -= 1
            for message in sent:
                counts[message] = counts.get(message, 0) + 1
            left = tuple(sorted((message, count) for message, count in counts.items() if count))
            known = self._changed_nets[key] = self.nets.of(left)
        return known

    def first(self, mode: Mode, budget: Budget, *, earlier: bool = False) -> World:
        """Return the world in which the VM runs on X at epoch 1, and a move of it to Y begins.

        `earlier`: it came to X by a migration.
        """
        qemu = Qemu(running=True, earlier=earlier)
        x = HostState(row=Ownership(UUID, NAMES[0], 1), qemu=qemu, marked=True, ran=(1,))
        draft = Draft(self, (x, HostState()), Rest())
        begin_move(draft, 0, mode)
        return (*(self.hosts.of(host) for host in draft.hosts), self.changed_net(self.nets.of(()), None, draft.sent),
                self.rests.of(draft.rest), self.budgets.of(budget))  # fmt: skip


def value_of(pairs: tuple[tuple[Any, V], ...], key: Any) -> V | None:
    """Return the value that a key has among pairs, or None."""
    for other, value in pairs:
        if other == key:
            return value
    return None


def with_value(pairs: tuple[tuple[Any, V], ...], key: Any, value: V) -> tuple[tuple[Any, V], ...]:
    """Return the pairs with a value for a key, in order."""
    return tuple(sorted([*(pair for pair in pairs if pair[0] != key), (key, value)], key=lambda pair: pair[0]))


class Draft:
    """Two hosts and the rest while one step is made. `touched` notes which hosts were looked at."""

    __slots__ = ("core", "hosts", "net", "rest", "sent", "space", "touched")

    def __init__(self, space: Space, hosts: tuple[HostState, HostState], rest: Rest, net: int | None = None) -> None:
        self.space, self.core = space, space.core
        self.hosts = list(hosts)
        self.rest = rest
        self.net = net
        self.sent: tuple[int, ...] = ()
        self.touched = 0

    # --- looking and changing ----------------------------------------------------------------------------------------

    def host(self, index: int) -> HostState:
        """Return a host."""
        self.touched |= 1 << index
        return self.hosts[index]

    def put(self, index: int, **changes: Any) -> None:
        """Change a host."""
        self.touched |= 1 << index
        before = self.hosts[index]
        row = changes.get("row")
        if row is not None and before.row is not None and row.epoch < before.row.epoch:
            raise Broken(f"the epoch on {NAMES[index]} goes back from {before.row.epoch} to {row.epoch}")
        self.hosts[index] = before._replace(**changes)

    def put_qemu(self, index: int, **changes: Any) -> None:
        """Change the QEMU of a host."""
        qemu = self.host(index).qemu
        assert qemu is not None
        self.put(index, qemu=qemu._replace(**changes))

    def in_net(self) -> list[Message]:
        """Return the messages on their way."""
        self.touched |= 4
        assert self.net is not None
        on_their_way = [message for message, _ in self.space.messages_in(self.net)]
        return [self.space.messages[message] for message in (*on_their_way, *self.sent)]

    def put_rest(self, **changes: Any) -> None:
        """Change the rest."""
        self.rest = self.rest._replace(**changes)

    def put_saved(self, number: int, what: str) -> None:
        """Change what there is of a move's saved state."""
        saved = self.rest.saved
        self.put_rest(saved=(*saved[: number - 1], what, *saved[number:]))

    def send(self, message: Message) -> None:
        """Put a message on its way."""
        self.sent = (*self.sent, self.space.messages.of(message))

    # --- moves and their engines -------------------------------------------------------------------------------------

    def move(self, number: int) -> Move:
        """Return a move by its number, which counts from 1."""
        return self.rest.moves[number - 1]

    def is_source(self, index: int, number: int) -> bool:
        """Whether a host is the one that a move leaves."""
        return self.rest.moves[number - 1].source == NAMES[index]

    def source(self, number: int) -> int:
        """Return the host that a move leaves."""
        return NAMES.index(self.move(number).source)

    def destination(self, number: int) -> int:
        """Return the host that a move goes to."""
        return NAMES.index(self.move(number).destination)

    def engine(self, index: int, number: int) -> Any:
        """Return the state of a move's engine on a host, or None."""
        state = value_of(self.host(index).engines, number)
        return None if state is None else self.core.engines[state]

    def tell(self, index: int, number: int, fact: Any) -> None:
        """Give a fact to a move's engine on a host, if there is one."""
        state = value_of(self.host(index).engines, number)
        if state is not None:
            side = "source" if self.is_source(index, number) else "destination"
            self.enter(index, number, *self.core.step(side, state, fact))

    def enter(self, index: int, number: int, state: int, commands: tuple[int, ...]) -> None:
        """Put an engine into a state, with commands to perform.

        Questions are on their way at once. One of a kind is asked at a time: what a second one could bring about, a
        repeated message does as well.
        """
        host = self.host(index)
        todo, asking = host.todo, host.asking
        for command in commands:
            question = self.core.question(command)
            if isinstance(self.core.commands[command], do.LookAtIncoming) and (number, command) in todo:
                continue  # it is looking
            if question is None:
                todo = (*todo, (number, command))
            elif (question[0], number) not in asking:
                asking = tuple(sorted((*asking, (question[0], number))))
                self.send(Message(1 - index, question[0], number, question[1]))
        self.put(index, engines=with_value(host.engines, number, state), todo=todo, asking=asking)

    def end_engine(self, index: int, number: int) -> None:
        """A move's side is over; nobody waits for its answers any more."""
        host = self.host(index)
        self.put(
            index,
            engines=tuple(pair for pair in host.engines if pair[0] != number),
            asking=tuple(asked for asked in host.asking if asked[1] != number or asked[0] == "claim"),
            waiting=tuple(asked for asked in host.waiting if asked[1] != number),
        )

    # --- the register, as the journal keeps it -----------------------------------------------------------------------

    def decide(self, index: int, number: int, value: Decision, epoch: int = 0) -> Decision:
        """Write once. `taken` makes the host the owner in the same write, at `epoch` if that is later."""
        move, host = self.move(number), self.host(index)
        entries = {(UUID, at): entry for at, entry, _ in host.register}
        if host.row is not None and host.row.epoch >= move.epoch:
            value = Decision.REFUSED  # that epoch is over here
        after, held = self.core.settle(entries, Ballot(UUID, move.epoch, move.id), value)
        if after != entries:
            fates = {at: fate for at, _, fate in host.register}
            register = tuple((at, entry, fates.get(at, "")) for (_, at), entry in sorted(after.items()))
            self.put(index, register=register)
            if held is Decision.TAKEN:
                self.put(index, row=Ownership(UUID, NAMES[index], max(move.epoch, epoch)))
        result: Decision = held
        return result

    def register_of(self, index: int, number: int) -> tuple[Decision | None, str]:
        """Read what a move learns of the register, and what became of the VM that it took."""
        move = self.move(number)
        for epoch, entry, fate in self.host(index).register:
            if epoch == move.epoch:
                return entry.told_to(move.id), fate if entry.move_id == move.id else ""
        return None, ""

    def note_fate(self, index: int, number: int, fate: str) -> None:
        """Note what became of a VM that was taken."""
        move = self.move(number)
        register = tuple(
            (at, entry, fate if at == move.epoch and entry == Entry(Decision.TAKEN, move.id) else before)
            for at, entry, before in self.host(index).register
        )
        self.put(index, register=register)

    # --- what is true ------------------------------------------------------------------------------------------------

    def copies(self) -> list[int]:
        """The hosts whose QEMU holds the VM as it is now and may go on with it."""
        return [index for index in (0, 1) if self._may_go_on(index)]

    def _may_go_on(self, index: int) -> bool:
        host = self.host(index)
        qemu = host.qemu
        if qemu is None or not qemu.whole:
            return False
        if qemu.incoming is None or qemu.running or not qemu.move:
            return True
        decision, fate = self.register_of(index, qemu.move)
        return decision is not Decision.REFUSED and fate != "given back"

    def runs(self, index: int) -> None:
        """The vCPUs run on a host from now on; what other copies hold is the past."""
        host = self.host(index)
        assert host.qemu is not None
        assert host.row is not None
        # A destination may not know that its source ran on before it was killed; see "What is known to be open".
        unknowing = self.rest.lost and host.qemu.outgoing is not Copy.COMPLETE
        forgiven = bool(self.rest.overruled) or unknowing
        if host.qemu.stale and not forgiven:
            raise Broken(f"{NAMES[index]} runs the VM as it was before it ran elsewhere")
        ran = host.ran if host.row.epoch in host.ran else tuple(sorted((*host.ran, host.row.epoch)))
        self.put(index, qemu=host.qemu._replace(running=True, stale=False), ran=ran)
        if self.host(1 - index).qemu is not None:
            self.put_qemu(1 - index, stale=True)
        if "whole" in self.rest.saved:
            self.put_rest(saved=tuple("stale" if what == "whole" else what for what in self.rest.saved))


def begin_move(draft: Draft, index: int, mode: Mode) -> None:
    """The user of a host asks for a move of its VM to the other one."""
    host, rest = draft.host(index), draft.rest
    assert host.row is not None
    number = len(rest.moves) + 1
    move = Move(f"m{number}", "web", UUID, NAMES[index], NAMES[1 - index], host.row.epoch + 1, mode)
    draft.put_rest(moves=(*rest.moves, move), saved=(*rest.saved, ""), told=(*rest.told, ""))
    draft.put(index, records=with_value(host.records, number, ""))
    draft.enter(index, number, *draft.core.took(*source.begin(move)))
