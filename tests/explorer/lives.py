"""Agents that end and come back, as `bascule.agent.reconcile` does it; hosts that stand down for another's claim."""

from __future__ import annotations

from tests.explorer import copying, questions
from tests.explorer.shell_destination import mine
from tests.explorer.shell_source import conclude, unfinished
from tests.explorer.world import NAMES, UUID, Draft, with_value

from bascule.migration import facts, source
from bascule.migration.model import Decision
from bascule.migration.ownership import BY_WORD_EPOCHS, Ownership
from bascule.migration.recovery import Copy, resume_destination, resume_source, source_copy
from bascule.migration.register import Entry
from bascule.migration.source_confirming import released


def agent_dies(draft: Draft, me: int) -> None:
    """An agent ends, and with it all that it was doing; those who wait for it learn that."""
    host = draft.host(me)
    draft.put(me, up=False, engines=(), todo=(), asking=(), waiting=())
    for kind, number in host.waiting:
        questions.gives_up(draft, 1 - me, kind, number)
    qemu = draft.host(me).qemu
    if qemu is not None and qemu.outgoing is Copy.UNDER_WAY and not copying.outgoing_move(draft, me):
        draft.put_qemu(me, outgoing=Copy.NONE)  # the agent was the reader of a Quick Migration's pipe


def host_dies(draft: Draft, me: int) -> None:
    """A host loses power: nobody is told, and nothing of the time before counts as certain afterwards."""
    if draft.host(me).qemu is not None:
        copying.ends(draft, me, silently=True)
    if draft.host(me).up:
        agent_dies(draft, me)
    draft.put(me, marked=True)


def agent_returns(draft: Draft, me: int, *, deaf: bool = False) -> None:
    """An agent starts again and goes on with every unfinished move.

    `deaf`: neither its QEMU nor the other agent answers it just then.
    """
    draft.put(me, up=True)
    held = False
    moves = [number for number in range(1, len(draft.rest.moves) + 1) if unfinished(draft, me, number)]
    for number in moves:
        if not draft.is_source(me, number):
            held = _go_on_as_destination(draft, me, number, deaf=deaf) or held
    for number in moves:
        if draft.is_source(me, number):
            _go_on_as_source(draft, me, number, deaf=deaf)
    _sweep(draft, me, held=held)


def _go_on_as_source(draft: Draft, me: int, number: int, *, deaf: bool) -> None:
    move, host = draft.move(number), draft.host(me)
    row = host.row
    if row is None or row.owner != NAMES[me]:
        state, commands = released(move, row, 0.0)
        if isinstance(state, source.Ended):
            draft.put_saved(number, "")
            conclude(draft, me, number, state.ending.outcome)
        else:
            draft.enter(me, number, *draft.core.took(state, commands))
        return
    offered = row.offer is not None and row.offer.move_id == move.id
    file = "file" if number in host.named else None
    copy = _copy(draft, me, number, deaf=deaf)
    first = resume_source(move, offered=offered, copy=copy, state_file=file, now=0.0, epoch=row.epoch)
    draft.enter(me, number, *draft.core.took(*first))


def _copy(draft: Draft, me: int, number: int, *, deaf: bool) -> Copy:
    qemu = draft.host(me).qemu
    if qemu is None or qemu.move >= number:
        return Copy.GONE
    if deaf:
        return Copy.UNDER_WAY
    status = {Copy.UNDER_WAY: "active", Copy.COMPLETE: "completed"}.get(qemu.outgoing, "")
    status = status or ("completed" if qemu.earlier else "none")
    return source_copy(status, "running" if qemu.running else "paused")


def _go_on_as_destination(draft: Draft, me: int, number: int, *, deaf: bool) -> bool:
    """Go on, and return whether there is a QEMU of this move."""
    move = draft.move(number)
    decision, fate = draft.register_of(me, number)
    other = draft.host(1 - me)
    claimed = other.up and not deaf and other.claim[1] == number
    if decision is Decision.TAKEN and claimed and accept_claim(draft, me, number, other.claim[0]):
        draft.put(me, qemu=None, records=with_value(draft.host(me).records, number, "refused"))
        return False
    qemu, row = draft.host(me).qemu, draft.host(me).row
    if decision is Decision.TAKEN and row is not None and row.owner != NAMES[me] and fate != "given back":
        draft.put(me, records=with_value(draft.host(me).records, number, "refused"))
        return False
    alive = mine(draft, me, number) and qemu is not None and qemu.noted
    if decision is Decision.TAKEN:  # then it is looked for among this host's VMs
        alive = qemu is not None and qemu.noted and row is not None and row.owner == NAMES[me]
    if not alive and decision is None:
        decision = draft.decide(me, number, Decision.REFUSED)
    copy = Copy.GONE
    if alive and qemu is not None and qemu.incoming is not None:
        copy = Copy.UNDER_WAY if deaf else qemu.incoming
    host = draft.host(me)
    as_taken = host.row is not None and host.row.epoch == move.epoch
    first = resume_destination(
        move,
        decision=decision,
        copy=copy,
        now=0.0,
        never_ran=as_taken and not (host.marked and draft.core.marks_count),
        given_back=fate == "given back",
    )
    draft.enter(me, number, *draft.core.took(*first))
    return alive


def _sweep(draft: Draft, me: int, *, held: bool) -> None:
    """What neither the journal nor a move knows never ran, and is ended."""
    host = draft.host(me)
    qemu = host.qemu
    if qemu is None or (host.row is not None and host.row.owner == NAMES[me] and qemu.noted):
        return
    if not held:
        draft.put(me, qemu=None)


# --- standing down -------------------------------------------------------------------------------------------------


def stands_down(draft: Draft, me: int, number: int, epoch: int) -> bool:
    """The other host claims the VM. Give the copy here up, unless this host knows better. Say whether it was heard."""
    before = draft.host(me)
    owned = before.row is not None and before.row.owner == NAMES[me]
    if not accept_claim(draft, me, number, epoch):
        return before.row is not None and before.row.epoch > epoch
    if owned and before.qemu is not None:
        copying.ends(draft, me)
    told = False
    for engine, _ in draft.host(me).engines:
        told = True
        draft.tell(me, engine, facts.StoodDown(NAMES[1 - me], ""))
    if owned and not told:
        draft.put(me, qemu=None)
    return True


def accept_claim(draft: Draft, me: int, number: int, epoch: int) -> bool:
    """Write that the other host has the VM at an epoch, unless one as late is known here."""
    host, claimant = draft.host(me), NAMES[1 - me]
    if host.row is not None and host.row.epoch >= epoch and draft.core.claims_age:
        return host.row.owner == claimant
    if host.row is not None:
        draft.put(me, row=Ownership(UUID, claimant, max(epoch, host.row.epoch)))
    if all(at != epoch - BY_WORD_EPOCHS for at, _, _ in host.register):
        closed = (epoch - BY_WORD_EPOCHS, Entry(Decision.REFUSED, draft.move(number).id), "")
        draft.put(me, register=tuple(sorted((*host.register, closed), key=lambda held: held[0])))
    if host.claim[0] < epoch:
        draft.put(me, claim=(0, 0))
    return True
