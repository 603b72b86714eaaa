"""The end of a move that an operator decided for its destination: the copy here is gone, and nobody said that it runs.

The word that this host has to stand down comes before the VM runs on the destination, since the copy here may be what
keeps it from running. So what is told for good waits until the destination says that it runs; after a while it is told
as *unknown*, and asked on.
"""

from __future__ import annotations

from dataclasses import replace

from bascule.migration import commands as do
from bascule.migration import facts
from bascule.migration.model import Decision, Move, Outcome
from bascule.migration.ownership import Ownership
from bascule.migration.source_ending import (
    ASK_AGAIN_S,
    DECISION_PATIENCE_S,
    LOST_QUESTION_S,
    UNSETTLED_ASK_AGAIN_S,
    Step,
    conclude,
)
from bascule.migration.source_states import Confirming, Ending, Releasing


def stand_down(move: Move, fact: facts.StoodDown) -> Step:
    """Give up the copy here, whatever was going on: an operator has let the VM run elsewhere."""
    outcome = Outcome.COMPLETED if fact.owner == move.destination else Outcome.FAILED
    return Releasing(move, Ending(outcome, fact.reason)), (do.DestroySource(),)


def released(move: Move, row: Ownership | None, now: float) -> Step:
    """Continue, after a restart, a move whose VM is not this host's any more. `row`: what the journal says of the VM.

    The destination owns it at the move's own epoch only if it was released on word that it runs there.
    """
    if row is None:
        return conclude(move, Ending(Outcome.FAILED, "the VM is not known here any more"))
    if row.owner != move.destination:
        return conclude(move, Ending(Outcome.FAILED, f"the VM belongs to host {row.owner} since epoch {row.epoch}"))
    if row.epoch <= move.epoch:
        return conclude(move, Ending(Outcome.COMPLETED, f"the VM runs on {move.destination}"))
    reason = f"an operator gave the VM to {move.destination} while {move.source} was said to be down"
    return Confirming(move, reason, now), (do.RemoveSavedState(), do.AskTake(last_copy=True))


def step(state: Confirming, fact: facts.SourceFact, now: float) -> Step:
    """Ask until the destination says that the VM runs there."""
    there = state.move.destination
    match fact:
        case facts.Answer(decision=Decision.TAKEN, running=True):
            return conclude(state.move, Ending(Outcome.COMPLETED, f"the VM runs on {there}: {state.reason}"))
        case facts.Answer(decision=Decision.REFUSED) | facts.Answer(given_back=True):
            return conclude(
                state.move, Ending(Outcome.FAILED, f"{there} has the VM, but not by this move: {state.reason}")
            )
        case facts.Answer(reason=why):
            return _ask_later(state, now, why or f"{there} does not run it yet")
        case facts.NoAnswer(reason=why) | facts.StillLoading(reason=why):
            return _ask_later(state, now, why)
        case facts.RecoverAsked() if state.ask_again_s is not None:
            return _ask(state, now)
        case facts.Tick() if state.ask_again_s is not None and now >= state.ask_again_s:
            return _ask(state, now)
        case _:
            return state, ()


def _ask(state: Confirming, now: float) -> Step:
    lost_s = now + LOST_QUESTION_S if state.told else None
    return replace(state, ask_again_s=lost_s), (do.AskTake(last_copy=True),)


def _ask_later(state: Confirming, now: float, why: str) -> Step:
    if state.told:
        return replace(state, why=why, ask_again_s=now + UNSETTLED_ASK_AGAIN_S), ()
    if now - state.since_s < DECISION_PATIENCE_S:
        return replace(state, why=why, ask_again_s=now + ASK_AGAIN_S), ()
    there = state.move.destination
    reason = (
        f"{state.reason}; whether it runs there is not known: {why}; {there} is asked again until it answers; "
        f"look there: bascule status {state.move.vm}"
    )
    state = replace(state, why=why, ask_again_s=now + UNSETTLED_ASK_AGAIN_S, told=True)
    return state, (do.Conclude(Outcome.UNKNOWN, reason),)
