"""Everything that may go wrong, each of which costs one of the budget's faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.explorer import copying, lives, questions, shell_destination, shell_source
from tests.explorer.shell import Cont, Entry, FinishSaving, Listen, NameSavedState, NoteIncoming, possible, without
from tests.explorer.world import Draft, Message

from bascule.migration import commands as do
from bascule.migration import destination, facts
from bascule.migration.model import Decision
from bascule.migration.recovery import Copy

Happening = tuple[Any, ...]
JOURNAL = (
    do.JournalOffer,
    do.JournalWithdrawal,
    do.JournalReturn,
    do.JournalOverride,
    do.LetGo,
    do.Decide,
    do.GiveBack,
)


def of_hosts(draft: Draft) -> Iterator[Happening]:
    """What may go wrong on the hosts."""
    for me in (0, 1):
        host = draft.host(me)
        qemu = host.qemu
        if host.up or qemu is not None:
            yield "host dies", me
        if qemu is not None:
            yield "QEMU dies", me
            if copying.outgoing_move(draft, me):
                yield "copy breaks", me, copying.outgoing_move(draft, me)
            if qemu.incoming is Copy.UNDER_WAY:
                yield "cannot load", me
        if not host.up:
            yield "returns deaf", me
            continue
        yield "agent dies", me
        for entry, command in possible(draft.core, host):
            yield from ((name, me, entry) for name in _failures(draft, me, entry, command))
        for kind, number in host.waiting:
            if kind != "prepare":
                yield "answers", me, kind, number


def _failures(draft: Draft, me: int, entry: Entry, command: Any) -> Iterator[str]:
    source = draft.is_source(me, entry[0])
    if command == do.Decide(Decision.TAKEN) or (isinstance(command, do.JournalOverride) and not source):
        yield "name is taken"
    if isinstance(command, Cont) or (isinstance(command, do.RunVcpus) and source):
        yield "dies at the gate"
    match command:
        case _ if isinstance(command, JOURNAL):
            yield "not written"
            yield "written unheard"
        case do.DestroySource() | do.StartIncoming() | NoteIncoming() | Listen() | do.DestroyIncoming():
            yield "not written"
        case do.CancelCopy():
            yield "not written"
            yield "written unheard"
            if (entry[0], draft.core.commands.of(NameSavedState())) in draft.host(me).todo:
                yield "named all the same"
        case do.RunVcpus():
            if draft.host(me).qemu is not None:
                yield "says no"
                if source:
                    yield "runs unheard"
        case Cont():
            if draft.host(me).qemu is not None:
                yield "runs unheard"
                yield "does not run, unheard"
        case FinishSaving() | NameSavedState():
            yield "disk full"
        case _:
            pass


FAILED: dict[type, Any] = {
    **dict.fromkeys((*JOURNAL, do.DestroySource), facts.JournalFailed("")),
    **dict.fromkeys((do.StartIncoming, NoteIncoming, Listen), facts.IncomingBroken("")),
    do.DestroyIncoming: facts.DestroyFailed(""),
    do.CancelCopy: facts.CancelFailed(""),
    do.RunVcpus: facts.RunFailed(""),
    Cont: facts.RunFailed(""),
}


def not_written(draft: Draft, me: int, entry: Entry) -> None:
    """A command is not performed, and the engine learns that it failed."""
    draft.put(me, todo=without(draft.host(me).todo, entry))
    draft.tell(me, entry[0], FAILED[type(draft.core.commands[entry[1]])])


def written_unheard(draft: Draft, me: int, entry: Entry) -> None:
    """A command is performed, and the engine learns that it failed."""
    host = draft.host(me)
    draft.put(me, engines=tuple(pair for pair in host.engines if pair[0] != entry[0]))  # nobody hears the result
    side = shell_source if draft.is_source(me, entry[0]) else shell_destination
    side.perform(draft, me, entry)
    draft.put(me, engines=host.engines)
    draft.tell(me, entry[0], FAILED[type(draft.core.commands[entry[1]])])


def does_not_run_unheard(draft: Draft, me: int, entry: Entry) -> None:
    """QEMU is told to let the VM run and does not; nobody can know that."""
    draft.put(me, marked=True)
    not_written(draft, me, entry)


def name_is_taken(draft: Draft, me: int, entry: Entry) -> None:
    """The register refuses of itself, and what came in may have been the only copy."""
    draft.put(me, todo=without(draft.host(me).todo, entry))

    def refuse(draft: Draft, me: int) -> None:
        draft.tell(me, entry[0], facts.Decided(draft.decide(me, entry[0], Decision.REFUSED)))

    killed(draft, me, refuse)


def dies_at_the_gate(draft: Draft, me: int, entry: Entry) -> None:
    """An agent ends between its mark and its word to QEMU."""
    draft.put(me, marked=True)
    lives.agent_dies(draft, me)


def named_all_the_same(draft: Draft, me: int, entry: Entry) -> None:
    """A copy is cancelled while the name of its saved state is being written."""
    draft.put(me, named=tuple(sorted({*draft.host(me).named, entry[0]})))
    shell_source.perform(draft, me, entry)


def heard_and_dies(draft: Draft, number: int) -> None:
    """An agent writes that it stands down, and ends."""
    message: Message = draft.space.messages[number]
    lives.accept_claim(draft, message.to, message.move, message.fact)
    lives.agent_dies(draft, message.to)
    questions.gives_up(draft, 1 - message.to, message.kind, message.move)


def disk_full(draft: Draft, me: int, entry: Entry) -> None:
    """The state of a Quick Migration cannot be saved."""
    draft.put(me, todo=without(draft.host(me).todo, entry))
    if shell_source.my_qemu(draft, me, entry[0]):
        draft.put_qemu(me, outgoing=Copy.NONE)
    if isinstance(draft.core.commands[entry[1]], FinishSaving):
        draft.put_saved(entry[0], "")
    draft.tell(me, entry[0], facts.CopyEnded(""))


def killed(draft: Draft, me: int, kill: Callable[[Draft, int], None]) -> None:
    """A process is killed that may hold the only copy with which the VM can go on.

    The destination's is no such copy once the source has wished for `refused`, or has said of its own that it lives to
    a destination that cannot run its one: then the source's counts.
    """
    had = bool(draft.copies())
    kill(draft, me)
    left = draft.copies()
    if had and not (left and not all(_is_given_up(draft, index) for index in left)):
        draft.put_rest(lost=True)


def _is_given_up(draft: Draft, index: int) -> bool:
    qemu = draft.host(index).qemu
    if qemu is None or qemu.running or qemu.incoming is None or not qemu.move:
        return False
    state = draft.engine(index, qemu.move)
    wished = any(m.kind == "refuse" and m.move == qemu.move and not m.answer for m in draft.in_net())
    withdrawn = any(
        m.kind == "offer" and m.move == qemu.move and m.answer and m.fact is not None for m in draft.in_net()
    )
    asked = [m for m in draft.in_net() if m.kind == "take" and m.move == qemu.move and not m.answer]
    word = any(not m.fact.last_copy for m in asked)
    given_back = isinstance(state, destination.Starting) and state.never > 0 and word
    return wished or withdrawn or given_back or isinstance(state, destination.Refusing | destination.Returning)


def says_no(draft: Draft, me: int, entry: Entry) -> None:
    """From now on a QEMU says no when it is told to run."""
    draft.put_qemu(me, balky=True)
    side = shell_source if draft.is_source(me, entry[0]) else shell_destination
    side.perform(draft, me, entry)


def relents(draft: Draft, me: int) -> None:
    """A QEMU that said no would run now."""
    draft.put_qemu(me, balky=False)


def lost(draft: Draft, number: int) -> None:
    """A message is lost; who has asked gives up some time."""
    message: Message = draft.space.messages[number]
    questions.gives_up(draft, message.to if message.answer else 1 - message.to, message.kind, message.move)


def twice(draft: Draft, number: int) -> None:
    """A message is on its way twice."""
    draft.sent = (*draft.sent, number)


def too_late(draft: Draft, number: int) -> None:
    """Who has asked gives up; the question is still on its way."""
    message: Message = draft.space.messages[number]
    questions.gives_up(draft, 1 - message.to, message.kind, message.move)


MENU: dict[str, Callable[..., None]] = {
    "host dies": lambda draft, me: killed(draft, me, lives.host_dies),
    "QEMU dies": lambda draft, me: killed(draft, me, copying.ends),
    "cannot load": copying.ends,
    "agent dies": lives.agent_dies,
    "says no": says_no,
    "relents": relents,
    "copy breaks": copying.copy_fails,
    "not written": not_written,
    "written unheard": written_unheard,
    "runs unheard": written_unheard,
    "does not run, unheard": does_not_run_unheard,
    "disk full": disk_full,
    "name is taken": name_is_taken,
    "dies at the gate": dies_at_the_gate,
    "named all the same": named_all_the_same,
    "heard, and dies": heard_and_dies,
    "lost": lost,
    "twice": twice,
    "too late": too_late,
}
