"""The destination's shell: what its commands do in this world, as `bascule.agent.destination_move` does it."""

from __future__ import annotations

from typing import Any

from tests.explorer.copying import certainly_never_ran
from tests.explorer.shell import Cont, Entry, Listen, NoteEnd, NoteIncoming, without
from tests.explorer.world import NAMES, UUID, Broken, Draft, Message, Qemu, value_of, with_value

from bascule.migration import commands as do
from bascule.migration import destination, facts
from bascule.migration.model import Decision, Mode
from bascule.migration.ownership import BY_WORD_EPOCHS, Ownership
from bascule.migration.recovery import Copy

ANSWERED = (destination.Ran, destination.Discarding, destination.Discarded)


def perform(draft: Draft, me: int, entry: Entry) -> None:
    """Perform one command."""
    number, command = entry[0], draft.core.commands[entry[1]]
    draft.put(me, todo=without(draft.host(me).todo, entry))
    _do(draft, me, number, command)


def look_after(draft: Draft, me: int, number: int) -> None:
    """After each step: answer those who wait, if there is an answer, and note the end, if it is one."""
    state = draft.engine(me, number)
    for kind, asked in draft.host(me).waiting:
        prepared = kind == "prepare" and not isinstance(state, destination.Preparing)
        answered = isinstance(state, ANSWERED) or ended_for_good(draft, me, state)
        if asked == number and (prepared or (kind != "prepare" and answered)):
            reply(draft, me, kind, number)
    note = (number, draft.core.commands.of(NoteEnd()))
    if isinstance(state, destination.Ran | destination.Discarded) and note not in draft.host(me).todo:
        draft.put(me, todo=(*draft.host(me).todo, note))


def reply(draft: Draft, me: int, kind: str, number: int) -> None:
    """Answer a question that waits with what is so now."""
    host = draft.host(me)
    draft.put(me, waiting=tuple(asked for asked in host.waiting if asked != (kind, number)))
    fact = _prepared(draft, me, number) if kind == "prepare" else view(draft, me, number)
    draft.send(Message(1 - me, kind, number, fact, answer=True))


def _prepared(draft: Draft, me: int, number: int) -> Any:
    receiving = isinstance(draft.engine(me, number), destination.Receiving)
    return facts.DestinationReady("there") if receiving else facts.DestinationFailed("")


def ended_for_good(draft: Draft, me: int, state: Any) -> bool:
    """Whether it has ended here and may have run, and no operator has started it again."""
    return isinstance(state, destination.Starting) and state.ended and draft.host(me).qemu is None


def view(draft: Draft, me: int, number: int) -> Any:
    """Say what this side can say of the decision."""
    match draft.engine(me, number):
        case destination.Ran():
            return facts.Answer(Decision.TAKEN, running=True)
        case destination.Starting() as state:
            return facts.Answer(Decision.TAKEN, ended=ended_for_good(draft, me, state))
        case destination.Returning():
            return facts.Answer(Decision.TAKEN)
        case destination.Discarding(given_back=given_back) | destination.Discarded(given_back=given_back):
            return facts.Answer(Decision.TAKEN if given_back else Decision.REFUSED, given_back=given_back)
        case destination.Receiving() if draft.move(number).mode is Mode.QUICK:
            return facts.StillLoading("")
        case _:
            return facts.NoAnswer("")


def _do(draft: Draft, me: int, number: int, command: Any) -> None:
    move = draft.move(number)
    match command:
        case do.StartIncoming():
            _start(draft, me, number)
        case NoteIncoming():
            if mine(draft, me, number):
                draft.put_qemu(me, noted=True)
                draft.put(me, todo=(*draft.host(me).todo, (number, draft.core.commands.of(Listen()))))
        case Listen():
            if mine(draft, me, number):
                live = move.mode is Mode.LIVE
                draft.put_qemu(me, incoming=Copy.UNDER_WAY if live else Copy.NONE)
                draft.tell(me, number, facts.IncomingReady("there"))
        case do.LoadState():
            qemu = draft.host(me).qemu
            what = draft.rest.saved[number - 1]
            if not mine(draft, me, number) or qemu is None:
                draft.tell(me, number, facts.IncomingBroken(""))
            elif qemu.incoming is Copy.COMPLETE:  # an earlier agent has told it to
                draft.tell(me, number, facts.IncomingLoaded())
            elif qemu.incoming is Copy.NONE and what in ("whole", "stale"):
                draft.put_qemu(me, incoming=Copy.UNDER_WAY, stale=what == "stale")
            elif qemu.incoming is Copy.NONE:
                draft.tell(me, number, facts.IncomingBroken(""))
        case do.Decide(decision=decision):
            draft.tell(me, number, facts.Decided(draft.decide(me, number, decision)))
        case do.JournalOverride():
            held = draft.decide(me, number, Decision.TAKEN, move.epoch + BY_WORD_EPOCHS)
            if held is Decision.TAKEN:
                row = draft.host(me).row
                if row is not None and row.owner == NAMES[me] and row.epoch <= move.epoch:
                    draft.put(me, row=Ownership(UUID, NAMES[me], move.epoch + BY_WORD_EPOCHS))
                draft.put(me, claim=(move.epoch + BY_WORD_EPOCHS, number))
            draft.tell(me, number, facts.Decided(held))
        case do.GiveBack():
            _give_back(draft, me, number)
        case do.LookAtIncoming():
            _look(draft, me, number)
        case do.DestroyIncoming():
            _destroy(draft, me, number)
        case do.RunVcpus():
            _let_run(draft, me, number)
        case Cont():
            _cont(draft, me, number)
        case NoteEnd():
            _note_end(draft, me, number)
        case _:
            raise TypeError(command)


def mine(draft: Draft, me: int, number: int) -> bool:
    """Whether the QEMU that came in by this move lives."""
    qemu = draft.host(me).qemu
    return qemu is not None and qemu.move == number


def _start(draft: Draft, me: int, number: int) -> None:
    if draft.host(me).qemu is not None:  # its folder is there already
        draft.tell(me, number, facts.IncomingBroken(""))
        return
    draft.put(me, marked=False, qemu=Qemu(number, incoming=Copy.NONE, noted=False))
    draft.put(me, todo=(*draft.host(me).todo, (number, draft.core.commands.of(NoteIncoming()))))


def _look(draft: Draft, me: int, number: int) -> None:
    """QEMU answers for some seconds and has not loaded; or it has; or it does not answer."""
    qemu = draft.host(me).qemu
    if qemu is None or qemu.move != number:
        return
    if qemu.arriving:
        return  # it does not answer now
    loaded = qemu.incoming is Copy.COMPLETE
    draft.tell(me, number, facts.IncomingLoaded() if loaded else facts.IncomingBroken(""))


def _give_back(draft: Draft, me: int, number: int) -> None:
    move, host = draft.move(number), draft.host(me)
    if host.marked and draft.core.marks_count:  # an operator was faster, and has started it, or has tried to
        runs = host.qemu is not None and host.qemu.running
        draft.tell(me, number, facts.GuestRunning() if runs else facts.RunFailed(""))
    elif host.row == Ownership(UUID, NAMES[me], move.epoch):
        draft.put(me, row=Ownership(UUID, move.source, move.epoch + 1))
        draft.note_fate(me, number, "given back")
        draft.tell(me, number, facts.GivenBack())
    elif draft.register_of(me, number)[1] == "given back":
        draft.tell(me, number, facts.GivenBack())
    else:
        draft.tell(me, number, facts.JournalFailed(""))


def _destroy(draft: Draft, me: int, number: int) -> None:
    decision, fate = draft.register_of(me, number)
    row = draft.host(me).row
    elsewhere = row is not None and row.owner != NAMES[me] and row.epoch >= draft.move(number).epoch
    if decision is not Decision.REFUSED and fate != "given back" and not elsewhere:
        raise Broken(f"{NAMES[me]} destroys what came in, and has not refused it")
    if mine(draft, me, number):
        draft.put(me, qemu=None)
    draft.tell(me, number, facts.IncomingDestroyed())


def _let_run(draft: Draft, me: int, number: int) -> None:
    """Look at QEMU and the journal. Time goes by then, until QEMU is told."""
    host = draft.host(me)
    qemu = host.qemu
    if qemu is None or qemu.move < number:
        _tell_no_qemu(draft, me, number)
    elif qemu.running:
        draft.tell(me, number, facts.GuestRunning())
    elif qemu.balky or draft.core.gate(host.row, NAMES[me]) is not None:
        draft.tell(me, number, facts.RunFailed("", never_ran=certainly_never_ran(draft, me, number)))
    else:
        draft.put(me, todo=(*host.todo, (number, draft.core.commands.of(Cont()))))


def _tell_no_qemu(draft: Draft, me: int, number: int) -> None:
    host = draft.host(me)
    ended = host.qemu is None and host.row is not None and host.row.owner == NAMES[me]
    never_ran = certainly_never_ran(draft, me, number)
    draft.tell(me, number, facts.NeverRan("") if never_ran else facts.RunFailed("", ended=ended))


def _cont(draft: Draft, me: int, number: int) -> None:
    qemu = draft.host(me).qemu
    if qemu is None or qemu.move < number:
        _tell_no_qemu(draft, me, number)
        return
    if qemu.incoming not in (None, Copy.COMPLETE):
        raise Broken(f"{NAMES[me]} runs half a VM")
    if draft.register_of(me, number)[0] is not Decision.TAKEN:
        raise Broken(f"{NAMES[me]} runs the VM, and its register does not hold `taken`")
    draft.put(me, marked=True)
    if not qemu.running:
        draft.runs(me)
    draft.tell(me, number, facts.GuestRunning())


def _note_end(draft: Draft, me: int, number: int) -> None:
    ran = isinstance(draft.engine(me, number), destination.Ran)
    if ran:
        draft.note_fate(me, number, "ran")
    draft.put(me, records=with_value(draft.host(me).records, number, "completed" if ran else "refused"))
    draft.end_engine(me, number)


def known(draft: Draft, me: int, number: int) -> bool:
    """Whether the journal has heard of a move to here, or of its epoch's decision."""
    epoch = draft.move(number).epoch
    host = draft.host(me)
    return value_of(host.records, number) is not None or any(at == epoch for at, _, _ in host.register)
