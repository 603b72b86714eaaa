"""The source's shell: what its commands do in this world, as `bascule.agent.source_move` does it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.explorer import copying
from tests.explorer.shell import EndSource, Entry, FinishSaving, NameSavedState, without
from tests.explorer.world import NAMES, UUID, Broken, Draft, value_of, with_value

from bascule.errors import Finding
from bascule.migration import commands as do
from bascule.migration import facts, source
from bascule.migration.model import Mode, Outcome
from bascule.migration.ownership import BY_WORD_EPOCHS, Offer, Ownership
from bascule.migration.recovery import Copy


def perform(draft: Draft, me: int, entry: Entry) -> None:
    """Perform one command."""
    number, command = entry[0], draft.core.commands[entry[1]]
    draft.put(me, todo=without(draft.host(me).todo, entry))
    move = draft.move(number)
    match command:
        case do.CheckBothSides():
            draft.tell(me, number, facts.Checked((Finding("host", "cannot"),) if _cannot(draft, 1 - me) else ()))
        case do.JournalOffer():
            row = draft.host(me).row
            if row is None or row.owner != NAMES[me] or (row.offer is not None and row.offer.move_id != move.id):
                draft.tell(me, number, facts.JournalFailed(""))
            else:
                draft.put(me, row=replace(row, offer=Offer(move.destination, move.epoch, move.id)))
                draft.tell(me, number, facts.OfferDurable())
        case do.StartCopy():
            if my_qemu(draft, me, number):
                draft.put_qemu(me, outgoing=Copy.UNDER_WAY, earlier=False)
            else:
                draft.tell(me, number, facts.CopyEnded(""))
        case do.SaveState() | FinishSaving() | NameSavedState():
            _save(draft, me, number, command)
        case do.CancelCopy():
            cancel_copy(draft, me, number)
        case do.JournalWithdrawal():
            _keep(draft, me, number, move.epoch)
            draft.tell(me, number, facts.WithdrawalDurable())
        case do.JournalReturn():
            _keep(draft, me, number, move.epoch + 1)
            draft.tell(me, number, facts.ReturnDurable())
        case do.JournalOverride():
            row = draft.host(me).row
            if row is not None and row.owner == NAMES[me] and row.epoch <= move.epoch:
                draft.put(me, row=Ownership(UUID, NAMES[me], move.epoch + BY_WORD_EPOCHS))
            draft.put(me, claim=(move.epoch + BY_WORD_EPOCHS, number))
            draft.tell(me, number, facts.OverrideDurable())
        case do.DestroySource():
            _release(draft, me, number)
        case do.LetGo(outcome=outcome):
            _let_go(draft, me, number)
            conclude(draft, me, number, outcome)  # in the same write
            draft.tell(me, number, facts.CopyDestroyed())
        case EndSource():
            if my_qemu(draft, me, number):
                draft.put(me, qemu=None)
            draft.tell(me, number, facts.CopyDestroyed())
        case do.RemoveSavedState():
            draft.put_saved(number, "")
        case do.RunVcpus():
            _let_run(draft, me, number)
        case do.Conclude(outcome=outcome):
            conclude(draft, me, number, outcome)
        case _:
            raise TypeError(command)
    if isinstance(draft.engine(me, number), source.Ended) and all(entry[0] != number for entry in draft.host(me).todo):
        draft.end_engine(me, number)  # all that was asked for is done, to the last conclusion


def my_qemu(draft: Draft, me: int, number: int) -> bool:
    """Whether the QEMU from which a move goes away still lives; one that came in later is another."""
    qemu = draft.host(me).qemu
    return qemu is not None and qemu.move < number


def then(draft: Draft, me: int, number: int, part: Any) -> None:
    """Perform a command's next part later."""
    draft.put(me, todo=(*draft.host(me).todo, (number, draft.core.commands.of(part))))


def _cannot(draft: Draft, there: int) -> bool:
    """Pre-flight: whether the other host does not answer, or has the VM, or something of it is not over there."""
    host = draft.host(there)
    owns = host.row is not None and host.row.owner == NAMES[there]
    return not host.up or host.qemu is not None or bool(host.engines) or owns


def _save(draft: Draft, me: int, number: int, part: Any) -> None:
    alive = my_qemu(draft, me, number)
    match part:
        case do.SaveState() if alive:
            draft.put_qemu(me, running=False, outgoing=Copy.UNDER_WAY, earlier=False)
            draft.put_saved(number, "part")
            then(draft, me, number, FinishSaving())
            draft.tell(me, number, facts.SourceStopped())
        case FinishSaving() if alive:
            draft.put_qemu(me, outgoing=Copy.COMPLETE)
            draft.put_saved(number, "whole")
            then(draft, me, number, NameSavedState())
        case NameSavedState():
            draft.put(me, named=tuple(sorted({*draft.host(me).named, number})))
            draft.tell(me, number, facts.CopyCompleted("file"))
        case _:
            draft.put_saved(number, "")
            draft.tell(me, number, facts.CopyEnded(""))


def cancel_copy(draft: Draft, me: int, number: int) -> None:
    """End the copy, and say what became of it."""
    host = draft.host(me)
    if draft.move(number).mode is Mode.QUICK:
        parts = [draft.core.commands.of(part) for part in (do.SaveState(), FinishSaving(), NameSavedState())]
        draft.put(me, todo=tuple(entry for entry in host.todo if entry[0] != number or entry[1] not in parts))
        if draft.rest.saved[number - 1] == "part":
            draft.put_saved(number, "")
    if not my_qemu(draft, me, number):
        draft.tell(me, number, facts.CancelFailed(""))
        return
    assert host.qemu is not None
    if draft.move(number).mode is Mode.QUICK:
        draft.put_qemu(me, outgoing=Copy.NONE)
        draft.tell(me, number, facts.CopyEnded(""))
    elif host.qemu.outgoing is Copy.COMPLETE and not host.qemu.running:
        draft.tell(me, number, facts.CopyCompleted())
    else:
        copying.fails(draft, me, number)
        draft.tell(me, number, facts.CopyEnded(""))


def _keep(draft: Draft, me: int, number: int, epoch: int) -> None:
    row = draft.host(me).row
    if row is not None and row.owner == NAMES[me] and (row.offer is None or row.offer.move_id == draft.move(number).id):
        draft.put(me, row=Ownership(UUID, NAMES[me], max(row.epoch, epoch)))


def _release(draft: Draft, me: int, number: int) -> None:
    move, there = draft.move(number), draft.host(1 - me)
    row = draft.host(me).row
    assert row is not None
    if row.epoch < move.epoch:
        if not any(epoch >= move.epoch for epoch in there.ran):
            raise Broken(f"{NAMES[me]} gives its copy up before the VM has run on {NAMES[1 - me]}")
        draft.put(me, row=Ownership(UUID, move.destination, move.epoch))
    elif row.owner == NAMES[me]:
        raise Broken(f"{NAMES[me]} owns the VM and destroys its copy")
    then(draft, me, number, EndSource())


def _let_go(draft: Draft, me: int, number: int) -> None:
    move, row = draft.move(number), draft.host(me).row
    assert row is not None
    if my_qemu(draft, me, number):
        raise Broken(f"{NAMES[me]} lets go of the VM, and has its copy")
    if row.epoch < move.epoch:
        draft.put(me, row=Ownership(UUID, move.destination, move.epoch))
    draft.put_saved(number, "")


def _let_run(draft: Draft, me: int, number: int) -> None:
    qemu = draft.host(me).qemu
    if not my_qemu(draft, me, number) or qemu is None or qemu.balky:
        draft.tell(me, number, facts.RunFailed(""))
    elif qemu.running:
        draft.tell(me, number, facts.GuestRunning())
    elif draft.core.gate(draft.host(me).row, NAMES[me]) is not None:
        draft.tell(me, number, facts.RunFailed(""))
    else:
        draft.put(me, marked=True)
        draft.runs(me)
        draft.tell(me, number, facts.GuestRunning())


def conclude(draft: Draft, me: int, number: int, outcome: Outcome) -> None:
    """Tell the user an outcome, and note it. What is known is not unknown again."""
    if outcome is Outcome.UNKNOWN and value_of(draft.host(me).records, number) not in ("", Outcome.UNKNOWN.value):
        return
    told = draft.rest.told
    draft.put_rest(told=(*told[: number - 1], outcome.value, *told[number:]))
    draft.put(me, records=with_value(draft.host(me).records, number, outcome.value))
    if outcome is not Outcome.UNKNOWN:
        look_at_truth(draft, me, number, outcome)


def look_at_truth(draft: Draft, me: int, number: int, outcome: Outcome) -> None:
    """Rule 4: what is told for good is so, or was so when the VM moved on."""
    there, row = 1 - me, draft.host(me).row
    completed = outcome is Outcome.COMPLETED
    if completed and not _ran_by(draft, there, number):
        raise Broken(f"`{outcome}` is told, and the VM has never run on {NAMES[there]}")
    here = row is not None and row.owner == NAMES[me]
    let_go = not here and outcome is Outcome.FAILED and ended_there(draft, there)
    if not completed and _ran_by(draft, there, number) and not draft.rest.overruled and not let_go:
        raise Broken(f"`{outcome}` is told, and the VM has run on {NAMES[there]}")
    excused = not completed and (draft.rest.overruled or let_go)
    if number == len(draft.rest.moves) and completed is here and not excused:
        raise Broken(f"`{outcome}` is told, and the VM belongs to {row.owner if row else 'nobody'}")


def ended_there(draft: Draft, there: int) -> bool:
    """Whether what came in by a move has ended; an operator may have started the VM anew, but it has not arrived."""
    qemu = draft.host(there).qemu
    return qemu is None or qemu.incoming is None


def _ran_by(draft: Draft, there: int, number: int) -> bool:
    """Whether the VM has run on the destination of a move because of it: from its epoch on, until the next move's."""
    later = draft.rest.moves[number].epoch if number < len(draft.rest.moves) else None
    return any(draft.move(number).epoch <= ran and (later is None or ran < later) for ran in draft.host(there).ran)


def unfinished(draft: Draft, me: int, number: int) -> bool:
    """Whether a move is to be gone on with after a restart."""
    return value_of(draft.host(me).records, number) in ("", Outcome.UNKNOWN.value)
