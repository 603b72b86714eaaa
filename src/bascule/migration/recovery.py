"""The state in which a restarted agent continues a move that its predecessor left unfinished.

What counts is what is durable (the journal) and what is real (QEMU), not where the engine stood.

Source, by its journal and its QEMU:

| offer in the journal | QEMU's copy      | then                                                                   |
|----------------------|------------------|------------------------------------------------------------------------|
| settled by an        | any              | the VM is this host's whatever the register holds: let it run          |
| operator's word      |                  |                                                                        |
| none, or withdrawn   | any              | withdraw: the VM runs here, the destination is told to refuse          |
| standing             | complete         | ask the destination to take; it may have done so already               |
| standing             | under way        | cancel it, then as for a cancelled copy                                |
| standing             | none, or failed  | withdraw: the state was never completely sent                          |
| standing             | process gone     | ask the destination to take; if it cannot, the VM is lost              |

For a Quick Migration the copy is complete when the journal names the saved state, whatever QEMU says; before that the
destination was never told of it, so that a dead process leaves nothing to ask for.

Destination, by its register and its QEMU:

| register | QEMU                 | then                                                |
|----------|----------------------|-----------------------------------------------------|
| taken    | alive                | let the VM run                                      |
| taken    | gone, and never ran  | give it back: the source's copy is the last good    |
| taken    | gone, may have run   | the VM belongs here and is stopped; watch for its   |
|          |                      | start, which an operator asks for                   |
| taken,   | any                  | destroy what is left                                |
| returned |                      |                                                     |
| refused  | any                  | destroy what is left                                |
| empty    | state loaded         | wait for the source's word, and ask it              |
| empty    | waiting for state    | wait, and ask the source (a QEMU that waits for a   |
|          |                      | saved state says as little as one that failed)      |
| empty    | failed, process gone | write `refused`                                     |
"""

from __future__ import annotations

from enum import Enum, auto

from bascule.migration import commands as do
from bascule.migration import destination, source
from bascule.migration.model import Decision, Mode, Move, Outcome
from bascule.migration.ownership import BY_WORD_EPOCHS


class Copy(Enum):
    """What QEMU says of its side of the copy."""

    NONE = auto()  # no copy was begun, or it failed or was cancelled
    UNDER_WAY = auto()
    COMPLETE = auto()
    GONE = auto()  # the process is dead


def resume_source(
    move: Move, *, offered: bool, copy: Copy, state_file: str | None, now: float, epoch: int | None = None
) -> source.Step:
    """Continue the source's side of a move whose VM is this host's.

    `offered`: the journal holds an offer of this move that is not withdrawn; `epoch`: and the VM at this epoch.
    """
    if epoch is not None and epoch >= move.epoch + BY_WORD_EPOCHS:
        reason = f"an operator let the VM run on {move.source} while {move.destination} was said to be down"
        word = source.Ending(Outcome.FAILED, reason)
        return source.Resuming(move, word, source.Because.OPERATOR, gone=copy is Copy.GONE), (do.JournalOverride(),)
    ending = source.Ending(Outcome.FAILED, f"the agent of {move.source} was restarted during the move")
    gone = source.Ending(Outcome.FAILED, "QEMU on the source ended while its agent was away")
    dead = copy is Copy.GONE
    # Of a dead QEMU, the destination knows whether it had sent everything.
    complete = copy in (Copy.COMPLETE, Copy.GONE) if move.mode is Mode.LIVE else state_file is not None
    if not offered or (dead and not complete):
        return source.Withdrawing(move, gone if dead else ending, gone=dead), (do.JournalWithdrawal(),)
    if complete and dead:
        return source.Deciding(move, now, state_file, gone, source_gone=True), (do.AskTake(state_file, last_copy=True),)
    if complete:
        return source.Deciding(move, now, state_file), (do.AskTake(state_file),)
    if copy is Copy.UNDER_WAY:
        return source.Cancelling(move, ending), (do.CancelCopy(),)
    return source.Withdrawing(move, ending), (do.JournalWithdrawal(),)


def source_copy(migration_status: str, run_state: str) -> Copy:
    """Read QEMU's `query-migrate` and `query-status` on a source.

    The migration status is that of the last migration begun, also of the one that brought the VM here long ago. A VM
    that runs was not sent completely since.
    """
    match migration_status:
        case "none" | "failed" | "cancelled":
            return Copy.NONE
        case "completed":
            return Copy.NONE if run_state == "running" else Copy.COMPLETE
        case _:
            return Copy.UNDER_WAY


def incoming_copy(migration_status: str, _run_state: str) -> Copy:
    """Read QEMU's `query-migrate` on a destination."""
    match migration_status:
        case "none" | "failed" | "cancelled":
            return Copy.NONE
        case "completed":
            return Copy.COMPLETE
        case _:
            return Copy.UNDER_WAY


def resume_destination(
    move: Move,
    *,
    decision: Decision | None,
    copy: Copy,
    now: float,
    never_ran: bool = False,
    given_back: bool = False,
) -> destination.Step:
    """Continue the destination's side. `copy` is COMPLETE when QEMU has loaded the state.

    `never_ran`: it is certain that no vCPU has run here; `given_back`: the journal holds that the VM was given back.
    """
    ask_at = now  # a restarted agent has missed what the source may have said
    match decision, copy:
        case Decision.TAKEN, _ if given_back:
            reason = f"the agent of {move.destination} was restarted after it had given the VM back"
            return destination.Discarding(move, reason, given_back=True), (do.DestroyIncoming(),)
        case Decision.TAKEN, Copy.GONE if never_ran:
            reason = f"its QEMU ended before any vCPU ran, while the agent of {move.destination} was away"
            return destination.Returning(move, reason), (do.GiveBack(),)
        case Decision.TAKEN, Copy.GONE:
            failure = f"its QEMU ended while the agent was away; start it: bascule vm start {move.vm}"
            return destination.Starting(move, failure, try_again_s=now + destination.RUN_AGAIN_S), ()
        case Decision.TAKEN, _:
            return destination.Starting(move), (do.RunVcpus(), do.AnnounceHere())
        case Decision.REFUSED, _:
            reason = f"the agent of {move.destination} was restarted after it had refused"
            return destination.Discarding(move, reason), (do.DestroyIncoming(),)
        case None, Copy.COMPLETE:
            return destination.Loaded(move, ask_at), ()
        case None, Copy.UNDER_WAY:
            return destination.Receiving(move, "", ask_at), ()
        case None, Copy.NONE if move.mode is Mode.QUICK:
            return destination.Receiving(move, "", ask_at), ()
        case _:
            reason = f"QEMU on {move.destination} ended while its agent was away"
            return destination.Refusing(move, reason), (do.Decide(Decision.REFUSED),)
