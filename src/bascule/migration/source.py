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
  `refused`;
- `Withdrawing` is entered only when the state was never completely sent, and such a move never asks the destination to
  take;
- the source's copy is destroyed only on word that the VM runs on the destination;
- the downtime limit is raised only at the end of a round, and only within the promise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from bascule.migration import commands as do
from bascule.migration import facts
from bascule.migration.convergence import Reading, Steering
from bascule.migration.model import Decision, Mode, Move, Outcome
from bascule.migration.source_states import (
    AFTER_THE_DECISION,
    SUCCESSORS,
    Cancelling,
    Checking,
    Copying,
    Deciding,
    Ended,
    Ending,
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
    "SUCCESSORS",
    "Cancelling",
    "Checking",
    "Copying",
    "Deciding",
    "Ended",
    "Ending",
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
DECISION_PATIENCE_S = 15.0  # without an answer for this long the outcome is reported as unknown
ASK_AGAIN_S = 0.3
UNSETTLED_ASK_AGAIN_S = 2.0
AGAIN_S = 1.0  # what failed here (a journal write, a cancel, letting the VM run) is tried again after this long
RUN_TRIES = 6


Step = tuple[State, tuple[do.SourceCommand, ...]]


def begin(move: Move) -> Step:
    """Start a move with its pre-flight."""
    return Checking(move), (do.CheckBothSides(),)


def step(state: State, fact: facts.SourceFact, now: float, *, fixed_ms: float = 15.0) -> Step:
    """Advance the source by one fact.

    `now` is in seconds on the source's monotonic clock; `fixed_ms` is what a switchover of nothing is expected to cost.
    Facts that mean nothing in a state leave it as it is: they are late, or repeated.
    """
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
        case Cancelling():
            return _cancelling(state, fact, now)
        case Withdrawing():
            return _withdrawing(state, fact, now)
        case Deciding() | Unsettled():
            return _deciding(state, fact, now)
        case Releasing():
            return _releasing(state, fact, now)
        case Resuming():
            return _resuming(state, fact, now)
        case Ended():
            return state, ()
        case _:
            assert_never(state)


def _conclude(move: Move, ending: Ending) -> Step:
    return Ended(move, ending), (do.Conclude(ending.outcome, ending.reason),)


def _withdraw(move: Move, ending: Ending, *first: do.SourceCommand) -> Step:
    announce = do.AnnounceHere() in first
    return Withdrawing(move, ending, announce=announce), (*first, do.JournalWithdrawal())


def _withdraw_gone(move: Move, ending: Ending) -> Step:
    return Withdrawing(move, ending, gone=True), (do.JournalWithdrawal(),)


def _gone(reason: str, before: Ending | None = None) -> Ending:
    first = f"{before.reason}; and " if before is not None else ""
    return Ending(Outcome.FAILED, f"{first}QEMU on the source ended by itself: {reason}")


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
            return _conclude(state.move, Ending(Outcome.REFUSED, reason))
        case facts.CancelAsked():
            return _conclude(state.move, _cancelled(fact))
        case facts.SourceGone(reason=reason):
            return _conclude(state.move, _gone(reason))
        case _:
            return state, ()


def _preparing(state: Preparing, fact: facts.SourceFact) -> Step:
    match fact:
        case facts.DestinationReady(address=address):
            return Offering(state.move, address), (do.JournalOffer(),)
        case facts.DestinationFailed(reason=reason):
            return _withdraw(state.move, Ending(Outcome.FAILED, f"the destination could not be prepared: {reason}"))
        case facts.CancelAsked():
            return _withdraw(state.move, _cancelled(fact))
        case facts.SourceGone(reason=reason):
            return _withdraw_gone(state.move, _gone(reason))
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
            return _withdraw(state.move, _cancelled(fact))
        case facts.JournalFailed(reason=reason):
            return _withdraw(state.move, Ending(Outcome.FAILED, f"the offer could not be written: {reason}"))
        case facts.SourceGone(reason=reason):
            return _withdraw_gone(state.move, _gone(reason))
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
            return _withdraw(move, Ending(Outcome.FAILED, f"the copy failed: {reason}"))
        case facts.SourceGone(reason=reason):
            return _source_gone(move, _gone(reason), now)
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
            ended = Deciding(state.move, now, state_file, _gone(state.gone), source_gone=True)
            return ended, (do.AskTake(state_file),)
        case facts.CopyCompleted(state_file=state_file):
            return Deciding(state.move, now, state_file), (do.AskTake(state_file),)
        case facts.CopyEnded() if state.gone is not None:
            return _withdraw_gone(state.move, _gone(state.gone))
        case facts.CopyEnded(reason=reason):
            return _withdraw(state.move, Ending(Outcome.FAILED, f"saving the state failed: {reason}"))
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
            return _withdraw(move, ending, do.AnnounceHere())
        case facts.CopyProgress(at_round_end=True) if state.steering.last and now > state.steering.last.at_s:
            # QEMU counted, found little enough, and stopped the VM before it answered: the round is told afterwards.
            reading = Reading(now, fact.remaining_bytes, fact.transferred_bytes, fact.bandwidth_bytes_per_s)
            return replace(state, steering=state.steering.round_ended(reading)), ()
        case facts.SourceGone(reason=reason):
            return _source_gone(move, _gone(reason), now)
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
    return Deciding(move, now, ending=ending, source_gone=True), (do.AskTake(),)


def _cancelling(state: Cancelling, fact: facts.SourceFact, now: float) -> Step:
    match fact:
        case facts.CopyEnded():
            return _withdraw(state.move, state.ending, do.AnnounceHere())
        case facts.CopyCompleted(state_file=state_file):
            asked = do.AskRefuse(state.ending.reason)
            return Deciding(state.move, now, state_file, ending=state.ending), (asked,)
        case facts.SourceGone(reason=reason) if state.move.mode is Mode.QUICK:
            return _withdraw_gone(state.move, _gone(reason, state.ending))
        case facts.SourceGone(reason=reason):
            return _source_gone(state.move, _gone(reason, state.ending), now)
        case facts.CancelFailed():
            return replace(state, try_again_s=now + AGAIN_S), ()
        case facts.Tick() if state.try_again_s is not None and now >= state.try_again_s:
            return replace(state, try_again_s=None), (do.CancelCopy(),)
        case _:
            return state, ()


def _withdrawing(state: Withdrawing, fact: facts.SourceFact, now: float) -> Step:
    match fact:
        case facts.WithdrawalDurable() if not state.durable:
            state = replace(state, durable=True, try_again_s=None)
            run = () if state.gone else (do.RunVcpus(),)
            return state, (*run, do.AskRefuse(state.ending.reason), do.RemoveSavedState())
        case facts.JournalFailed() if not state.durable:
            return replace(state, try_again_s=now + AGAIN_S), ()
        case facts.Answer(decision=Decision.TAKEN):  # no rule allows this, so somebody has to look
            reason = f"{state.move.destination} has taken the VM, which was not given to it: it may run on both hosts"
            state = replace(state, settled=True, ending=Ending(Outcome.UNKNOWN, reason))
        case facts.Answer() | facts.NoAnswer():
            state = replace(state, settled=True)
        case facts.GuestRunning():
            state = replace(state, running=True)
        case facts.RunFailed(reason=reason) if not state.running and not state.gone:
            state = replace(state, failures=state.failures + 1, try_again_s=now + AGAIN_S)
            if state.failures >= RUN_TRIES:
                state = replace(state, ending=_cannot_run(state.ending, reason), try_again_s=None)
        case facts.SourceGone(reason=reason) if not state.gone:
            state = replace(state, ending=_gone(reason, state.ending), gone=True)
        case facts.Tick() if state.try_again_s is not None and now >= state.try_again_s:
            again = do.RunVcpus() if state.durable else do.JournalWithdrawal()
            return replace(state, try_again_s=None), (again,)
        case _:
            pass
    if not (state.durable and state.settled and (state.running or state.gone or state.failures >= RUN_TRIES)):
        return state, ()
    ended, concluded = _conclude(state.move, state.ending)
    # Said once more: a late notice of the stop may have drawn the frames to the destination until it refused.
    return ended, (do.AnnounceHere(), *concluded) if state.announce and state.running else concluded


def _cannot_run(ending: Ending, reason: str) -> Ending:
    return Ending(Outcome.FAILED, f"{ending.reason}; and the VM could not be let run again here: {reason}")


def _deciding(state: Deciding | Unsettled, fact: facts.SourceFact, now: float) -> Step:
    match fact:
        case facts.Answer(decision=Decision.TAKEN, running=True):
            return Releasing(state.move), (do.DestroySource(),)
        case facts.Answer(decision=Decision.TAKEN, reason=reason):
            but = f"which does not run it: {reason}" if reason else "which does not run it yet"
            return _ask_later(state, now, f"it belongs to {state.move.destination}, {but}")
        case facts.Answer(decision=Decision.REFUSED, reason=reason):
            ending = state.ending or Ending(
                Outcome.FAILED, f"{state.move.destination} refused the VM after the copy: {reason}"
            )
            return Resuming(state.move, ending, gone=state.source_gone), (do.JournalWithdrawal(),)
        case facts.NoAnswer(reason=reason):
            return _ask_later(state, now, reason)
        case facts.CancelAsked() if state.ending is None:  # with QEMU gone, the destination's may be the last copy
            ending = _cancelled(fact)
            return replace(state, ending=ending), (do.AskRefuse(ending.reason),)
        case facts.SourceGone(reason=reason) if not state.source_gone:
            return replace(state, source_gone=True, ending=_gone(reason, state.ending)), ()
        case facts.Tick() if state.ask_again_s is not None and now >= state.ask_again_s:
            quiet = (
                replace(state, ask_again_s=None)
                if isinstance(state, Deciding)
                else replace(state, ask_again_s=now + 60)
            )
            return quiet, (_question(state),)
        case _:
            return state, ()


def _question(state: Deciding | Unsettled) -> do.SourceCommand:
    if state.ending is not None and not state.source_gone:
        return do.AskRefuse(state.ending.reason)
    return do.AskTake(state.state_file)


def _ask_later(state: Deciding | Unsettled, now: float, why: str) -> Step:
    if isinstance(state, Unsettled):
        return replace(state, ask_again_s=now + UNSETTLED_ASK_AGAIN_S), ()
    if now - state.since_s < DECISION_PATIENCE_S:
        return replace(state, ask_again_s=now + ASK_AGAIN_S), ()
    unsettled = Unsettled(state.move, state.state_file, state.ending, state.source_gone, now + UNSETTLED_ASK_AGAIN_S)
    there = state.move.destination
    if state.source_gone:
        reason = f"QEMU on {state.move.source} has ended, and {why}; {there} is asked again until it answers"
    else:
        reason = (
            f"the VM's state was sent completely to {there}, and {why}; the paused copy here is kept and {there} is "
            "asked again until it answers"
        )
    return unsettled, (do.Conclude(Outcome.UNKNOWN, reason),)


def _releasing(state: Releasing, fact: facts.SourceFact, now: float) -> Step:
    match fact:
        case facts.CopyDestroyed(leftover=leftover):
            reason = f"the VM runs on {state.move.destination}"
            if leftover:
                reason += f"; what is left of it here could not be removed: {leftover}"
            ended, concluded = _conclude(state.move, Ending(Outcome.COMPLETED, reason))
            return ended, (do.RemoveSavedState(), *concluded)
        case facts.JournalFailed():
            return replace(state, try_again_s=now + AGAIN_S), ()
        case facts.Tick() if state.try_again_s is not None and now >= state.try_again_s:
            return replace(state, try_again_s=None), (do.DestroySource(),)
        case _:
            return state, ()


def _resuming(state: Resuming, fact: facts.SourceFact, now: float) -> Step:
    match fact:
        case facts.WithdrawalDurable() if not state.durable and state.gone:
            return _resumed(state, state.ending)
        case facts.WithdrawalDurable() if not state.durable:
            return replace(state, durable=True, try_again_s=None), (do.RunVcpus(), do.AnnounceHere())
        case facts.JournalFailed() if not state.durable:
            return replace(state, try_again_s=now + AGAIN_S), ()
        case facts.GuestRunning():
            return _resumed(state, state.ending)
        case facts.RunFailed(reason=reason) if state.failures + 1 >= RUN_TRIES:
            return _resumed(state, _cannot_run(state.ending, reason))
        case facts.RunFailed():
            return replace(state, failures=state.failures + 1, try_again_s=now + AGAIN_S), ()
        case facts.SourceGone(reason=reason) if not state.gone:
            state = replace(state, gone=True, ending=_gone(reason, state.ending))
            return _resumed(state, state.ending) if state.durable else (state, ())
        case facts.Tick() if state.try_again_s is not None and now >= state.try_again_s:
            again = (do.RunVcpus(), do.AnnounceHere()) if state.durable else (do.JournalWithdrawal(),)
            return replace(state, try_again_s=None), again
        case _:
            return state, ()


def _resumed(state: Resuming, ending: Ending) -> Step:
    ended, concluded = _conclude(state.move, ending)
    return ended, (do.RemoveSavedState(), *concluded)
