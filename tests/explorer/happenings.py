"""Everything that may happen next in a world: what goes on by itself, what people wish, and what goes wrong.

A happening is a name and what it is about. `MENU` says for each name what it does to a draft.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.explorer import copying, faults, lives, questions, shell_destination, shell_source
from tests.explorer.shell import Entry, possible
from tests.explorer.world import NAMES, Budget, Draft, Message, Qemu, begin_move

from bascule.migration import commands as do
from bascule.migration import destination, facts, source
from bascule.migration.model import Mode

Happening = tuple[Any, ...]
FREE, FAULT, CANCEL, OPERATOR = range(4)


def perform(draft: Draft, me: int, entry: Entry) -> None:
    """An agent performs a command."""
    side = shell_source if draft.is_source(me, entry[0]) else shell_destination
    side.perform(draft, me, entry)


def time_passes(draft: Draft, me: int, number: int, start: int) -> None:
    """Time passes for one engine: a little, in which what waits for its next try is due, or more than any patience."""
    side = "source" if draft.is_source(me, number) else "destination"
    draft.enter(me, number, *draft.core.step(side, start, facts.Tick()))


def tells_claim(draft: Draft, me: int) -> None:
    """A host tells the other of its claim."""
    host = draft.host(me)
    epoch, number = host.claim
    draft.put(me, asking=tuple(sorted((*host.asking, ("claim", number)))))
    draft.send(Message(1 - me, "claim", number, epoch))


def starts_anew(draft: Draft, me: int) -> None:
    """An operator starts a stopped VM from its disks."""
    draft.put(me, qemu=Qemu(len(draft.rest.moves)), marked=True)
    draft.runs(me)


def starts_in_vain(draft: Draft, me: int) -> None:
    """An operator starts a stopped VM, and its QEMU ends while it is told to run."""
    draft.put(me, marked=True)


def cancels(draft: Draft, me: int, number: int) -> None:
    """A user cancels a move."""
    draft.tell(me, number, facts.CancelAsked())


def decides(draft: Draft, me: int, number: int) -> None:
    """An operator confirms that the other host is down, and lets the VM run here."""
    draft.put_rest(overruled=NAMES[me])
    draft.tell(me, number, facts.OperatorRunsHere())


def begins(draft: Draft, me: int, mode: Mode) -> None:
    """A user moves the VM away from a host."""
    begin_move(draft, me, mode)


def never_sent(draft: Draft, message: int) -> None:
    """A question is taken out of the network: who was to ask it may have died before."""


MENU: dict[str, Callable[..., None]] = {
    "performs": perform,
    "time": time_passes,
    "arrives": questions.arrives,
    "never sent": never_sent,
    "answers": shell_destination.reply,
    "tells claim": tells_claim,
    "starts anew": starts_anew,
    "starts in vain": starts_in_vain,
    "cancels": cancels,
    "decides": decides,
    "begins": begins,
    "returns": lives.agent_returns,
    "returns deaf": lambda draft, me: lives.agent_returns(draft, me, deaf=True),
    "stops": copying.stops,
    "sent": copying.sent,
    "loads": copying.loads,
    "stream ends": copying.stream_ends,
    "seen loaded": copying.seen_loaded,
    "copy fails": copying.copy_fails,
    **faults.MENU,
}
TAKES_ITS_MESSAGE = ("arrives", "never sent", "lost", "heard, and dies")  # out of the network


def of_hosts(
    draft: Draft, budget: Budget, *, lies: bool, mode: Mode, most_moves: int
) -> Iterator[tuple[int, Happening]]:
    """What may happen but for messages, with what it costs."""
    for me in (0, 1):
        if draft.host(me).up:
            for entry, _ in possible(draft.core, draft.host(me)):
                yield FREE, ("performs", me, entry)
            yield from ((FREE, time) for time in times(draft, me))
            if draft.host(me).claim[0] and ("claim", draft.host(me).claim[1]) not in draft.host(me).asking:
                yield FREE, ("tells claim", me)
        else:
            yield FREE, ("returns", me)
        qemu = draft.host(me).qemu
        if qemu is not None and qemu.balky:
            yield FREE, ("relents", me)
    for what in copying.goes_on(draft):
        yield FREE, what
    yield from ((FREE, begun) for begun in _next_move(draft, mode, most_moves))
    if budget.faults:
        yield from ((FAULT, fault) for fault in faults.of_hosts(draft))
    if budget.cancels:
        yield from ((CANCEL, ("cancels", me, number)) for me, number in _sources(draft))
    if budget.operators:
        yield from ((OPERATOR, word) for word in operators(draft, lies=lies))


def of_messages(draft: Draft, budget: Budget) -> Iterator[tuple[int, Happening]]:
    """What may happen to the messages on their way."""
    assert draft.net is not None
    for number, _ in draft.space.messages_in(draft.net):
        message: Message = draft.space.messages[number]
        asked = (message.kind, message.move) in draft.hosts[message.to if message.answer else 1 - message.to].asking
        yield FREE, ("arrives", number)
        if not asked and not message.answer:
            yield FREE, ("never sent", number)  # who asked is dead: it may have died before
        if budget.faults:
            if asked:
                yield FAULT, ("lost", number)
            if message.kind == "claim" and not message.answer and draft.hosts[message.to].up:
                yield FAULT, ("heard, and dies", number)
            if not message.answer:
                yield FAULT, ("twice", number)
                if asked:
                    yield FAULT, ("too late", number)


def times(draft: Draft, me: int) -> Iterator[Happening]:
    """The passing of time for each engine of a host, where it changes something."""
    for number, state in draft.host(me).engines:
        side = "source" if draft.is_source(me, number) else "destination"
        for start in dict.fromkeys((state, draft.core.aged(state))):
            after, commands = draft.core.step(side, start, facts.Tick())
            if after != state or any(_is_new(draft, me, number, command) for command in commands):
                yield "time", me, number, start


def _is_new(draft: Draft, me: int, number: int, command: int) -> bool:
    question = draft.core.question(command)
    return question is None or (question[0], number) not in draft.host(me).asking


def early_answers(draft: Draft) -> Iterator[Happening]:
    """Who has waited long enough for a decision is told that there is none yet."""
    for me in (0, 1):
        for kind, number in draft.host(me).waiting:
            if kind != "prepare":
                yield "answers", me, kind, number


def operators(draft: Draft, *, lies: bool) -> Iterator[Happening]:
    """What an operator may do. Unless he lies, he confirms only what is so, and does not act against another one."""
    for me in (0, 1):
        host, other = draft.host(me), draft.host(1 - me)
        if not host.up:
            continue
        if lies or (not other.up and other.qemu is None):
            for number, _ in host.engines:
                if isinstance(draft.engine(me, number), source.Deciding | source.Unsettled | destination.Loaded):
                    yield "decides", me, number
        row = host.row
        given_away = draft.rest.overruled == NAMES[1 - me] and (other.claim[0] or _overrides(draft, 1 - me))
        owned = row is not None and row.owner == NAMES[me] and row.offer is None
        if owned and host.qemu is None and (lies or not given_away):
            yield "starts anew", me
            if not host.marked:
                yield "starts in vain", me


def _overrides(draft: Draft, me: int) -> bool:
    return any(isinstance(draft.core.commands[command], do.JournalOverride) for _, command in draft.host(me).todo)


def _sources(draft: Draft) -> Iterator[tuple[int, int]]:
    for me in (0, 1):
        for number, _ in draft.host(me).engines:
            undone = (
                source.Releasing
                | source.LettingGo
                | source.Ended
                | source.Cancelling
                | source.Withdrawing
                | source.Resuming
            )
            if draft.is_source(me, number) and not isinstance(draft.engine(me, number), undone):
                yield me, number


def _next_move(draft: Draft, mode: Mode, most: int) -> Iterator[Happening]:
    if len(draft.rest.moves) >= most:
        return
    for me in (0, 1):
        host = draft.host(me)
        row, qemu = host.row, host.qemu
        mine = row is not None and row.owner == NAMES[me] and row.offer is None
        if host.up and mine and qemu is not None and qemu.running and not host.engines:
            yield "begins", me, mode
