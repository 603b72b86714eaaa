"""The end of a move on its source: the copy is ended or complete, and what remains is who runs the VM.

From here on everything is tried until it succeeds. What needs longer than a user should wait for is told as *unknown*,
and tried on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from bascule.migration import commands as do
from bascule.migration import facts
from bascule.migration.model import Decision, Mode, Move, Outcome
from bascule.migration.source_states import (
    Because,
    Cancelling,
    Confirming,
    Deciding,
    Ended,
    Ending,
    LettingGo,
    Releasing,
    Resuming,
    State,
    Unsettled,
    Withdrawing,
)

DECISION_PATIENCE_S = 15.0  # without an answer for this long the outcome is reported as unknown
ASK_AGAIN_S = 0.3
UNSETTLED_ASK_AGAIN_S = 2.0
LOST_QUESTION_S = 60.0  # a question that was neither answered nor given up is asked again after this long
AGAIN_S = 1.0  # what failed here (a journal write, a cancel, letting the VM run) is tried again after this long
RUN_TRIES = 6  # after as many failures to let the VM run the outcome is reported as unknown
RUN_AGAIN_LATER_S = 5.0

Step = tuple[State, tuple[do.SourceCommand, ...]]
Trying = Cancelling | Withdrawing | Deciding | Unsettled | Releasing | LettingGo | Resuming


def step(state: Trying, fact: facts.SourceFact, now: float) -> Step:
    """Advance one of these states by one fact."""
    if isinstance(fact, facts.RecoverAsked):
        if isinstance(state, Withdrawing) and state.taken:
            return state, (do.AskRefuse(state.ending.reason),)
        state, fact = _due(state, now), facts.Tick()
    match state:
        case Cancelling():
            return _cancelling(state, fact, now)
        case Withdrawing():
            return _withdrawing(state, fact, now)
        case Deciding() | Unsettled():
            return _deciding(state, fact, now)
        case Releasing():
            return _releasing(state, fact, now)
        case LettingGo():
            return _letting_go(state, fact, now)
        case Resuming():
            return _resuming(state, fact, now)
        case _:
            assert_never(state)


def _due(state: Trying, now: float) -> Trying:
    """What waits for its next try is due now; what is being tried is left alone."""
    if isinstance(state, Deciding | Unsettled):
        return replace(state, ask_again_s=now) if state.ask_again_s is not None else state
    return replace(state, try_again_s=now) if state.try_again_s is not None else state


# --- what the other states need as well ----------------------------------------------------------------------------


def conclude(move: Move, ending: Ending) -> Step:
    """End the move."""
    return Ended(move, ending), (do.Conclude(ending.outcome, ending.reason),)


def withdraw(move: Move, ending: Ending, *first: do.SourceCommand) -> Step:
    """Withdraw a move whose state was never completely sent."""
    announce = do.AnnounceHere() in first
    return Withdrawing(move, ending, announce=announce), (*first, do.JournalWithdrawal())


def withdraw_gone(move: Move, ending: Ending) -> Step:
    """As `withdraw`, where QEMU is dead."""
    return Withdrawing(move, ending, gone=True), (do.JournalWithdrawal(),)


def gone(reason: str, before: Ending | None = None) -> Ending:
    """Say that QEMU on the source ended by itself, after what was to be said before."""
    first = f"{before.reason}; and " if before is not None else ""
    return Ending(Outcome.FAILED, f"{first}QEMU on the source ended by itself: {reason}")


# --- the states ----------------------------------------------------------------------------------------------------


def _cancelling(state: Cancelling, fact: facts.SourceFact, now: float) -> Step:
    match fact:
        case facts.CopyEnded():
            return withdraw(state.move, state.ending, do.AnnounceHere())
        case facts.CopyCompleted(state_file=state_file):
            asked = do.AskRefuse(state.ending.reason)
            return Deciding(state.move, now, state_file, ending=state.ending), (asked,)
        case facts.SourceGone(reason=reason) if state.move.mode is Mode.QUICK:
            return withdraw_gone(state.move, gone(reason, state.ending))
        case facts.SourceGone(reason=reason):
            deciding = Deciding(state.move, now, ending=gone(reason, state.ending), source_gone=True)
            return deciding, (do.AskTake(last_copy=True),)
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
        case facts.Answer(decision=Decision.TAKEN, given_back=False) if not state.taken:
            # Only an operator can have done this. His word comes here some time, and until then somebody has to look.
            reason = f"{state.move.destination} has taken the VM, which was not given to it: it may run on both hosts"
            return replace(state, taken=True), (do.Conclude(Outcome.UNKNOWN, reason),)
        case facts.Answer() | facts.NoAnswer() | facts.StillLoading():
            state = replace(state, settled=True)
        case facts.GuestRunning():
            state = replace(state, running=True)
        case facts.RunFailed(reason=reason) if not state.running and not state.gone:
            return _run_again(state, reason, now)
        case facts.SourceGone(reason=reason) if not state.gone:
            state = replace(state, ending=gone(reason, state.ending), gone=True)
        case facts.Tick() if state.try_again_s is not None and now >= state.try_again_s:
            again = do.RunVcpus() if state.durable else do.JournalWithdrawal()
            return replace(state, try_again_s=None), (again,)
        case _:
            pass
    if state.taken or not (state.durable and state.settled and (state.running or state.gone)):
        return state, ()
    ended, concluded = conclude(state.move, state.ending)
    # Said once more: a late notice of the stop may have drawn the frames to the destination until it refused.
    return ended, (do.AnnounceHere(), *concluded) if state.announce and state.running else concluded


def _run_again(state: Withdrawing | Resuming, reason: str, now: float) -> Step:
    """QEMU could not be made to let the VM run: try again, and some time say so."""
    failures = state.failures + 1
    wait_s = AGAIN_S if failures < RUN_TRIES else RUN_AGAIN_LATER_S
    told: tuple[do.SourceCommand, ...] = ()
    if failures == RUN_TRIES:
        here = state.move.source
        why = f"{state.ending.reason}; the VM belongs to {here}, but could not be let run there: {reason}"
        told = (do.Conclude(Outcome.UNKNOWN, f"{why}; it is tried on; {_look(state.move)}"),)
    return replace(state, failures=failures, try_again_s=now + wait_s), told


def _deciding(state: Deciding | Unsettled, fact: facts.SourceFact, now: float) -> Step:
    there = state.move.destination
    match fact:
        case facts.Answer(given_back=True, reason=reason):
            ending = state.ending or Ending(Outcome.FAILED, f"{there} took the VM and gave it back unrun: {reason}")
            resuming = Resuming(state.move, ending, Because.GIVEN_BACK, gone=state.source_gone)
            return resuming, (do.JournalReturn(),)
        case facts.Answer(decision=Decision.TAKEN, running=True):
            return Releasing(state.move), (do.DestroySource(),)
        case facts.Answer(decision=Decision.TAKEN, ended=True) if state.source_gone:
            return _let_go(state.move)
        case facts.Answer(decision=Decision.TAKEN, reason=reason):
            but = f"which does not run it: {reason}" if reason else "which does not run it yet"
            return _ask_later(state, now, f"it belongs to {there}, {but}")
        case facts.Answer(decision=Decision.REFUSED, reason=reason):
            ending = state.ending or Ending(Outcome.FAILED, f"{there} refused the VM after the copy: {reason}")
            return Resuming(state.move, ending, gone=state.source_gone), (do.JournalWithdrawal(),)
        case facts.StillLoading() if isinstance(state, Deciding):
            return replace(state, since_s=now, ask_again_s=now + ASK_AGAIN_S), ()  # patience is for silence
        case facts.StillLoading(reason=reason) | facts.NoAnswer(reason=reason):
            return _ask_later(state, now, reason)
        case facts.CancelAsked(who=who) if state.ending is None:  # with QEMU gone, the destination's may be the last
            ending = Ending(Outcome.CANCELLED, f"cancelled by {who}")
            return replace(state, ending=ending), (do.AskRefuse(ending.reason),)
        case facts.OperatorRunsHere(who=who):
            reason = f"{who} confirmed that {there} is down, and let the VM run on {state.move.source}"
            if state.source_gone:
                reason = (
                    f"{who} confirmed that {there} is down, and gave the VM to {state.move.source}, where it is "
                    f"stopped; start it: bascule vm start {state.move.vm}"
                )
            resuming = Resuming(state.move, Ending(Outcome.FAILED, reason), Because.OPERATOR, gone=state.source_gone)
            return resuming, (do.JournalOverride(),)
        case facts.SourceGone(reason=reason) if not state.source_gone:
            return replace(state, source_gone=True, ending=gone(reason, state.ending)), ()
        case facts.Tick() if state.ask_again_s is not None and now >= state.ask_again_s:
            lost_s = None if isinstance(state, Deciding) else now + LOST_QUESTION_S
            return replace(state, ask_again_s=lost_s), (_question(state),)
        case _:
            return state, ()


def _look(move: Move) -> str:
    return f"what would settle it: bascule status {move.vm}"


def _question(state: Deciding | Unsettled) -> do.SourceCommand:
    if state.ending is not None and not state.source_gone:
        return do.AskRefuse(state.ending.reason)
    return do.AskTake(state.state_file, last_copy=state.source_gone)


def _ask_later(state: Deciding | Unsettled, now: float, why: str) -> Step:
    if isinstance(state, Unsettled):
        return replace(state, why=why, ask_again_s=now + UNSETTLED_ASK_AGAIN_S), ()
    if now - state.since_s < DECISION_PATIENCE_S:
        return replace(state, ask_again_s=now + ASK_AGAIN_S), ()
    ask_again_s = now + UNSETTLED_ASK_AGAIN_S
    unsettled = Unsettled(state.move, state.state_file, state.ending, state.source_gone, ask_again_s, why)
    there = state.move.destination
    if state.source_gone:
        reason = f"QEMU on {state.move.source} has ended, and {why}; {there} is asked again until it answers"
        reason += f"; {_look(state.move)}"
    else:
        reason = (
            f"the VM's state was sent completely to {there}, and {why}; the paused copy here is kept and {there} is "
            f"asked again until it answers; {_look(state.move)}"
        )
    return unsettled, (do.Conclude(Outcome.UNKNOWN, reason),)


def _releasing(state: Releasing, fact: facts.SourceFact, now: float) -> Step:
    match fact:
        case facts.CopyDestroyed(leftover=leftover):
            ending = state.ending or Ending(Outcome.COMPLETED, f"the VM runs on {state.move.destination}")
            if leftover:
                reason = f"{ending.reason}; what is left of it here could not be removed: {leftover}"
                ending = replace(ending, reason=reason)
            if state.ending is not None and ending.outcome is Outcome.COMPLETED:  # so far this is an operator's word
                confirming = Confirming(state.move, ending.reason, now)
                return confirming, (do.RemoveSavedState(), do.AskTake(last_copy=True))
            ended, concluded = conclude(state.move, ending)
            return ended, (do.RemoveSavedState(), *concluded)
        case facts.JournalFailed():
            return replace(state, try_again_s=now + AGAIN_S), ()
        case facts.Tick() if state.try_again_s is not None and now >= state.try_again_s:
            return replace(state, try_again_s=None), (do.DestroySource(),)
        case _:
            return state, ()


def _let_go(move: Move) -> Step:
    """Nothing is left here to keep, and the destination never gives the VM back: an operator starts it there."""
    here, there = move.source, move.destination
    reason = (
        f"the VM belongs to {there} and is stopped: {there} took it, and its QEMU there has ended, as the one on "
        f"{here} had; what was only in its memory is lost; start it on {there}: bascule vm start {move.vm}"
    )
    return LettingGo(move, Ending(Outcome.FAILED, reason)), (do.LetGo(Outcome.FAILED, reason),)


def _letting_go(state: LettingGo, fact: facts.SourceFact, now: float) -> Step:
    match fact:
        case facts.CopyDestroyed(leftover=leftover):
            reason = state.ending.reason
            if leftover:
                reason = f"{reason}; what is left of it here could not be removed: {leftover}"
            return conclude(state.move, replace(state.ending, reason=reason))
        case facts.JournalFailed():
            return replace(state, try_again_s=now + AGAIN_S), ()
        case facts.Tick() if state.try_again_s is not None and now >= state.try_again_s:
            return replace(state, try_again_s=None), (do.LetGo(state.ending.outcome, state.ending.reason),)
        case _:
            return state, ()


def _resuming(state: Resuming, fact: facts.SourceFact, now: float) -> Step:
    match fact:
        case facts.WithdrawalDurable() | facts.ReturnDurable() | facts.OverrideDurable() if (
            not state.durable and isinstance(fact, _DURABLE[state.because])
        ):
            if state.gone:
                return _resumed(state)
            return replace(state, durable=True, try_again_s=None), (do.RunVcpus(), do.AnnounceHere())
        case facts.JournalFailed() if not state.durable:
            return replace(state, try_again_s=now + AGAIN_S), ()
        case facts.GuestRunning():
            return _resumed(state)
        case facts.RunFailed(reason=reason):
            return _run_again(state, reason, now)
        case facts.SourceGone(reason=reason) if not state.gone:
            state = replace(state, gone=True, ending=gone(reason, state.ending))
            return _resumed(state) if state.durable else (state, ())
        case facts.Tick() if state.try_again_s is not None and now >= state.try_again_s:
            again = (do.RunVcpus(), do.AnnounceHere()) if state.durable else (_WRITE[state.because],)
            return replace(state, try_again_s=None), again
        case _:
            return state, ()


_WRITE: dict[Because, do.SourceCommand] = {
    Because.REFUSED: do.JournalWithdrawal(),
    Because.GIVEN_BACK: do.JournalReturn(),
    Because.OPERATOR: do.JournalOverride(),
}
_DURABLE: dict[Because, type] = {
    Because.REFUSED: facts.WithdrawalDurable,
    Because.GIVEN_BACK: facts.ReturnDurable,
    Because.OPERATOR: facts.OverrideDurable,
}


def _resumed(state: Resuming) -> Step:
    ended, concluded = conclude(state.move, state.ending)
    return ended, (do.RemoveSavedState(), *concluded)
