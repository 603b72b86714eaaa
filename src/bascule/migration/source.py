"""The source's side of a move.

            ┌─ Refused ─┐
    Checking ─► Preparing ─► Offering ─► Copying ─► SwitchingOver ─► Deciding ══► Releasing ─► Ended completed
       │            │            │      (Saving for a Quick Migration)   │  │
       │            ▼            ▼          │              │            │  └─► Unsettled (keeps asking)
       └─────► Withdrawing ◄─────────── Cancelling ◄───────┘            ▼
                    │                                               Resuming ─► Ended, the VM runs here
                    └─► Ended, the VM runs here

`══►` is the point of no return: the destination's register holds `taken`. The full diagram is drawn from `SUCCESSORS`
in docs/states.md.

Invariants, each tested:

- the offer is durable before the copy starts;
- from `Deciding` on, nothing but the register's answer leads to the VM running here: `Resuming` is entered only on
  `refused`, on the destination's word that it gave the VM back unrun, or on an operator's that it is down;
- `Withdrawing` is entered only when the state was never completely sent, and such a move never asks the destination to
  take;
- the source's copy is destroyed only on word that the VM runs on the destination;
- a source whose own QEMU is dead lets go of a VM that does not run there only on word that it has ended there and is
  never given back (`LettingGo`): a VM that could still come back would belong to nobody then;
- the downtime limit is raised only at the end of a round, and only within the promise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from bascule.migration import commands as do
from bascule.migration import facts, source_confirming, source_ending
from bascule.migration.convergence import Reading, Steering
from bascule.migration.model import Mode, Move, Outcome
from bascule.migration.source_ending import AGAIN_S, Step, conclude, gone, withdraw, withdraw_gone
from bascule.migration.source_states import (
    AFTER_THE_DECISION,
    SUCCESSORS,
    Because,
    Cancelling,
    Checking,
    Confirming,
    Copying,
    Deciding,
    Ended,
    Ending,
    LettingGo,
    Offering,
    Preparing,
    Releasing,
    Resuming,
    Saving,
    State,
    SwitchingOver,
    Unsettled,
    Withdrawing,
)

__all__ = [  # the states are looked for here
    "AFTER_THE_DECISION",
    "AGAIN_S",
    "SUCCESSORS",
    "Because",
    "Cancelling",
    "Checking",
    "Confirming",
    "Copying",
    "Deciding",
    "Ended",
    "Ending",
    "LettingGo",
    "Offering",
    "Preparing",
    "Releasing",
    "Resuming",
    "Saving",
    "State",
    "Step",
    "SwitchingOver",
    "Unsettled",
    "Withdrawing",
    "begin",
    "step",
]

SWITCHOVER_PATIENCE_S = 5.0  # a VM that stands still this long runs again here, if its state is not completely sent


def begin(move: Move) -> Step:
    """Start a move with its pre-flight."""
    return Checking(move), (do.CheckBothSides(),)


def step(state: State, fact: facts.SourceFact, now: float, *, fixed_ms: float = 15.0) -> Step:
    """Advance the source by one fact.

    `now` is in seconds on the source's monotonic clock; `fixed_ms` is what a switchover of nothing is expected to cost.
    Facts that mean nothing in a state leave it as it is: they are late, or repeated.
    """
    if isinstance(fact, facts.StoodDown) and not isinstance(state, Confirming | Ended | Releasing):
        return source_confirming.stand_down(state.move, fact)
    match state:
        case Checking():
            return _checking(state, fact)
        case Preparing():
            return _preparing(state, fact)
        case Offering():
            return _offering(state, fact, now, fixed_ms)
        case Copying():
            return _copying(state, fact, now)
        case Saving():
            return _saving(state, fact, now)
        case SwitchingOver():
            return _switching_over(state, fact, now)
        case Cancelling() | Withdrawing() | Deciding() | Unsettled() | Releasing() | LettingGo() | Resuming():
            return source_ending.step(state, fact, now)
        case Confirming():
            return source_confirming.step(state, fact, now)
        case Ended():
            return state, ()
        case _:
            assert_never(state)


def _cancel(move: Move, outcome: Outcome, reason: str) -> Step:
    return Cancelling(move, Ending(outcome, reason)), (do.CancelCopy(),)


def _cancelled(fact: facts.CancelAsked) -> Ending:
    return Ending(Outcome.CANCELLED, f"cancelled by {fact.who}")


def _checking(state: Checking, fact: facts.SourceFact) -> Step:
    match fact:
        case facts.Checked(findings=()):
            return Preparing(state.move), (do.PrepareDestination(),)
        case facts.Checked(findings=findings):
            reason = "; ".join(str(finding) for finding in findings)
            return conclude(state.move, Ending(Outcome.REFUSED, reason))
        case facts.CancelAsked():
            return conclude(state.move, _cancelled(fact))
        case facts.SourceGone(reason=reason):
            return conclude(state.move, gone(reason))
        case _:
            return state, ()


def _preparing(state: Preparing, fact: facts.SourceFact) -> Step:
    match fact:
        case facts.DestinationReady(address=address):
            return Offering(state.move, address), (do.JournalOffer(),)
        case facts.DestinationFailed(reason=reason):
            return withdraw(state.move, Ending(Outcome.FAILED, f"the destination could not be prepared: {reason}"))
        case facts.CancelAsked():
            return withdraw(state.move, _cancelled(fact))
        case facts.SourceGone(reason=reason):
            return withdraw_gone(state.move, gone(reason))
        case _:
            return state, ()


def _offering(state: Offering, fact: facts.SourceFact, now: float, fixed_ms: float) -> Step:
    match fact:
        case facts.OfferDurable() if state.move.mode is Mode.QUICK:
            return Saving(state.move), (do.SaveState(),)
        case facts.OfferDurable():
            steering = Steering(state.move.goals.max_blackout_ms, fixed_ms)
            return Copying(state.move, steering, now, 1), (do.StartCopy(state.address),)
        case facts.CancelAsked():
            return withdraw(state.move, _cancelled(fact))
        case facts.JournalFailed(reason=reason):
            return withdraw(state.move, Ending(Outcome.FAILED, f"the offer could not be written: {reason}"))
        case facts.SourceGone(reason=reason):
            return withdraw_gone(state.move, gone(reason))
        case _:
            return state, ()


def _copying(state: Copying, fact: facts.SourceFact, now: float) -> Step:
    move = state.move
    match fact:
        case facts.CopyProgress():
            return _progress(state, fact, now)
        case facts.SourceStopped():
            return SwitchingOver(move, state.steering, now), (do.TellStopped(),)
        case facts.CopyCompleted():
            return Deciding(move, now), (do.AskTake(),)
        case facts.CopyEnded(reason=reason):
            return withdraw(move, Ending(Outcome.FAILED, f"the copy failed: {reason}"))
        case facts.SourceGone(reason=reason):
            return _source_gone(move, gone(reason), now)
        case facts.CancelAsked():
            return _cancel(move, *_parts(_cancelled(fact)))
        case facts.Tick() if now - state.started_s > move.goals.deadline_s:
            return _cancel(
                move,
                Outcome.FAILED,
                f"the copy could not be finished within {move.goals.deadline_s:g} s: {state.steering.why_not()}",
            )
        case _:
            return state, ()


def _parts(ending: Ending) -> tuple[Outcome, str]:
    return ending.outcome, ending.reason


def _progress(state: Copying, fact: facts.CopyProgress, now: float) -> Step:
    reading = Reading(now, fact.remaining_bytes, fact.transferred_bytes, fact.bandwidth_bytes_per_s)
    if state.steering.last is None:
        return replace(state, steering=state.steering.begun(reading)), ()
    if not fact.at_round_end:
        return state, ()
    steering = state.steering.round_ended(reading)
    advice = steering.advise()
    state = replace(state, steering=steering, limit_ms=advice.limit_ms)
    return state, (do.SetDowntimeLimit(advice.limit_ms),)


def _saving(state: Saving, fact: facts.SourceFact, now: float) -> Step:
    match fact:
        case facts.CopyCompleted(state_file=state_file) if state.gone is not None:
            ended = Deciding(state.move, now, state_file, gone(state.gone), source_gone=True)
            return ended, (do.AskTake(state_file, last_copy=True),)
        case facts.CopyCompleted(state_file=state_file):
            return Deciding(state.move, now, state_file), (do.AskTake(state_file),)
        case facts.CopyEnded() if state.gone is not None:
            return withdraw_gone(state.move, gone(state.gone))
        case facts.CopyEnded(reason=reason):
            return withdraw(state.move, Ending(Outcome.FAILED, f"saving the state failed: {reason}"))
        case facts.SourceGone(reason=reason):
            return replace(state, gone=reason), ()
        case facts.CancelAsked() if state.gone is None:
            return _cancel(state.move, *_parts(_cancelled(fact)))
        case _:
            return state, ()


def _switching_over(state: SwitchingOver, fact: facts.SourceFact, now: float) -> Step:
    move = state.move
    match fact:
        case facts.CopyCompleted():
            return Deciding(move, now), (do.AskTake(),)
        case facts.CopyEnded(reason=reason):
            ending = Ending(Outcome.FAILED, f"the copy failed during the switchover: {reason}")
            return withdraw(move, ending, do.AnnounceHere())
        case facts.CopyProgress(at_round_end=True) if state.steering.last and now > state.steering.last.at_s:
            # QEMU counted, found little enough, and stopped the VM before it answered: the round is told afterwards.
            reading = Reading(now, fact.remaining_bytes, fact.transferred_bytes, fact.bandwidth_bytes_per_s)
            return replace(state, steering=state.steering.round_ended(reading)), ()
        case facts.SourceGone(reason=reason):
            return _source_gone(move, gone(reason), now)
        case facts.CancelAsked():
            return _cancel(move, *_parts(_cancelled(fact)))
        case facts.Tick() if now - state.stopped_s > _switchover_patience_s(move):
            waited_s = now - state.stopped_s
            return _cancel(
                move,
                Outcome.FAILED,
                f"the switchover had not ended after {waited_s:.1f} s, so the VM was let run on at its source",
            )
        case _:
            return state, ()


def _switchover_patience_s(move: Move) -> float:
    return max(SWITCHOVER_PATIENCE_S, 10 * move.goals.max_blackout_ms / 1000)


def _source_gone(move: Move, ending: Ending, now: float) -> Step:
    """The copy here will never run again: if the destination has all of the state it may take it, else it is lost."""
    return Deciding(move, now, ending=ending, source_gone=True), (do.AskTake(last_copy=True),)
