"""The destination's side of a move.

    Preparing ─► Receiving ─► Loaded ─► Taking ══► Starting ─► Ran
        │            │           │        │            │
        │            ▼           ▼        │            ▼ (no vCPU ran, and none ever will)
        └──────► Refusing ◄───────────────┘         Returning
                     │   (the register held `refused`) │
                     ▼                                 │
                Discarding ◄───────────────────────────┘
                     │
                     ▼
                 Discarded

`══►` is the point of no return: the register, which is this host's journal, holds `taken`. The full diagram is drawn
from `SUCCESSORS` in docs/states.md.

Invariants, each tested:

- `taken` is written only when the state is loaded *and* the source gave its word;
- the vCPUs are let run only after `taken` is durable;
- the incoming copy is destroyed only after `refused` is durable, or the VM given back, or another host owns it later;
- the VM is given back only when it is certain that no vCPU has run here, and while its QEMU lives here, only to a
  source that has just said that its own copy lives;
- once it was told that the VM has ended here and may have run, it is never given back: a source without a copy of its
  own lets go of it then;
- a silent source changes nothing: the copy here may be the last good one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from bascule.migration import commands as do
from bascule.migration import facts
from bascule.migration.model import Decision, Mode, Move

ASK_SOURCE_S = 3.0
ARRIVAL_S = 5.0  # with the source's word given, a live copy that is not loaded after this long probably never will be
LOOK_AGAIN_S = 20.0  # longer than a look takes
JOURNAL_AGAIN_S = 0.5
RUN_AGAIN_S = 0.5
RUN_AGAIN_AT_MOST_S = 8.0
DESTROY_AGAIN_S = 2.0
RUN_TRIES = 6  # after as many times that QEMU itself said no, the VM is given back to a source that has its copy


@dataclass(frozen=True, slots=True)
class Preparing:
    """A paused QEMU is being started."""

    move: Move


@dataclass(frozen=True, slots=True)
class Receiving:
    """QEMU waits for the state, or receives it.

    `word_s`: when the source said that it sent everything; `last_copy`: and that its own copy is dead.
    """

    move: Move
    address: str
    ask_source_s: float
    word_s: float | None = None
    last_copy: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything is loaded; the source's word is missing."""

    move: Move
    ask_source_s: float


@dataclass(frozen=True, slots=True)
class Taking:
    """`taken` is being written; `overruling`: by an operator's word in place of the source's.

    `last_copy`: the source has said that its own copy is dead.
    """

    move: Move
    overruling: bool = False
    last_copy: bool = False
    try_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Starting:
    """The VM belongs to this host and is being let run, again and again if need be.

    Where its QEMU is gone and may have run, it is the operator who starts it. `never`: how often in a row QEMU said no,
    and it was certain that no vCPU had run; -1 once it was not certain, or the source's copy is known to be dead. After
    `RUN_TRIES` of them it is given back, as soon as the source says by asking that its own copy lives: the copy here
    may be the last. `ended`: its QEMU is gone and may have run, which is told, and holds for good.
    """

    move: Move
    failure: str = ""
    failures: int = 0
    never: int = 0
    ended: bool = False
    try_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Returning:
    """No vCPU has run here and none will: it is being written that the VM is the source's again."""

    move: Move
    reason: str
    try_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ran:
    """The VM runs here. Nothing more happens."""

    move: Move


@dataclass(frozen=True, slots=True)
class Refusing:
    """`refused` is being written."""

    move: Move
    reason: str
    try_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Discarding:
    """`refused` is written; the incoming copy is being destroyed. `given_back`: it was taken, and returned unrun."""

    move: Move
    reason: str
    given_back: bool = False
    try_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Discarded:
    """Nothing of the move is left here but its record."""

    move: Move
    reason: str
    given_back: bool = False


State = Preparing | Receiving | Loaded | Taking | Starting | Ran | Returning | Refusing | Discarding | Discarded
Step = tuple[State, tuple[do.DestinationCommand, ...]]

# Besides, `Starting` and `Returning` may be followed by `Discarding` when an operator has let the VM run elsewhere.
SUCCESSORS: dict[type[State], tuple[type[State], ...]] = {
    Preparing: (Receiving, Refusing),
    Receiving: (Loaded, Taking, Refusing),
    Loaded: (Taking, Refusing),
    Taking: (Starting, Refusing, Discarding),
    Starting: (Ran, Returning, Discarding),
    Ran: (),
    Returning: (Discarding, Ran, Starting),
    Refusing: (Discarding, Starting),
    Discarding: (Discarded,),
    Discarded: (),
}
AFTER_THE_DECISION: frozenset[type[State]] = frozenset({Starting, Ran, Returning})


def begin(move: Move) -> Step:
    """Start the destination's side."""
    return Preparing(move), (do.StartIncoming(),)


def step(state: State, fact: facts.DestinationFact, now: float) -> Step:
    """Advance the destination by one fact. `now` is in seconds on the destination's monotonic clock.

    Facts that mean nothing in a state leave it as it is: they are late, or repeated.
    """
    if isinstance(fact, facts.RecoverAsked):
        state, fact = _due(state, now), facts.Tick()
    match state:
        case Preparing():
            return _preparing(state, fact, now)
        case Receiving():
            return _receiving(state, fact, now)
        case Loaded():
            return _loaded(state, fact, now)
        case Taking() | Refusing():
            return _deciding(state, fact, now)
        case Starting():
            return _starting(state, fact, now)
        case Returning():
            return _returning(state, fact, now)
        case Discarding():
            return _discarding(state, fact, now)
        case Ran() | Discarded():
            return state, ()
        case _:
            assert_never(state)


def _due(state: State, now: float) -> State:
    """What waits for its next try is due now; what is being tried is left alone."""
    match state:
        case Receiving() | Loaded():
            return replace(state, ask_source_s=now)
        case Taking() | Starting() | Returning() | Refusing() | Discarding() if state.try_again_s is not None:
            return replace(state, try_again_s=now)
        case _:
            return state


def _refuse(move: Move, reason: str) -> Step:
    return Refusing(move, reason), (do.Decide(Decision.REFUSED),)


def _preparing(state: Preparing, fact: facts.DestinationFact, now: float) -> Step:
    match fact:
        case facts.IncomingReady(address=address):
            return Receiving(state.move, address, now + ASK_SOURCE_S), ()
        case facts.IncomingBroken(reason=reason) | facts.RefuseAsked(reason=reason) | facts.StoodDown(reason=reason):
            return _refuse(state.move, reason)
        case facts.TakeAsked():
            return _refuse(state.move, "asked to take the VM before its state was loaded")
        case _:
            return state, ()


def _receiving(state: Receiving, fact: facts.DestinationFact, now: float) -> Step:
    match fact:
        case facts.IncomingLoaded() if state.word_s is not None:
            return Taking(state.move, last_copy=state.last_copy), (do.Decide(Decision.TAKEN),)
        case facts.IncomingLoaded():
            return Loaded(state.move, now + ASK_SOURCE_S), ()
        case facts.TakeAsked(last_copy=last_copy) if state.word_s is not None:
            state = replace(state, last_copy=state.last_copy or last_copy)
            # The source lives, since it asks again, and is better served than by waiting for a QEMU that is frozen.
            if _is_overdue(state, now) and not state.last_copy:
                return _refuse(state.move, "the state did not arrive completely")
            return state, ()
        case facts.TakeAsked(state_file=str(path), last_copy=last_copy):
            return replace(state, word_s=now, last_copy=last_copy), (do.LoadState(path),)
        case facts.TakeAsked() if state.move.mode is Mode.QUICK:
            return _refuse(state.move, "the source has no saved state to load")
        case facts.TakeAsked(last_copy=last_copy):
            return replace(state, word_s=now, last_copy=last_copy), ()
        case facts.StopNotice():
            return state, (do.AnnounceHere(),)
        case facts.IncomingBroken(reason=reason) | facts.RefuseAsked(reason=reason) | facts.StoodDown(reason=reason):
            return _refuse(state.move, reason)
        case facts.Tick() if state.word_s is not None:
            # A silent source may be dead. What may be the last copy is not given up while its QEMU is frozen.
            if _is_overdue(state, now) and now >= state.ask_source_s:
                return replace(state, ask_source_s=now + LOOK_AGAIN_S), (do.LookAtIncoming(),)
            return state, ()
        case facts.Tick() if now >= state.ask_source_s:
            return replace(state, ask_source_s=now + ASK_SOURCE_S), (do.AskSource(),)
        case _:
            return state, ()


def _is_overdue(state: Receiving, now: float) -> bool:
    return state.word_s is not None and state.move.mode is Mode.LIVE and now - state.word_s > ARRIVAL_S


def _loaded(state: Loaded, fact: facts.DestinationFact, now: float) -> Step:
    match fact:
        case facts.TakeAsked(last_copy=last_copy):
            return Taking(state.move, last_copy=last_copy), (do.Decide(Decision.TAKEN),)
        case facts.OperatorRunsHere():
            return Taking(state.move, overruling=True), (do.JournalOverride(),)
        case facts.StopNotice():
            return state, (do.AnnounceHere(),)
        case facts.IncomingBroken(reason=reason) | facts.RefuseAsked(reason=reason) | facts.StoodDown(reason=reason):
            return _refuse(state.move, reason)
        case facts.Tick() if now >= state.ask_source_s:
            return replace(state, ask_source_s=now + ASK_SOURCE_S), (do.AskSource(),)
        case _:
            return state, ()


def _deciding(state: Taking | Refusing, fact: facts.DestinationFact, now: float) -> Step:
    match fact:
        case facts.Decided(decision=Decision.TAKEN):
            last_copy = isinstance(state, Taking) and state.last_copy
            return Starting(state.move, never=-1 if last_copy else 0), (do.RunVcpus(), do.AnnounceHere())
        case facts.Decided(decision=Decision.REFUSED):
            reason = state.reason if isinstance(state, Refusing) else "the register already held `refused`"
            return Discarding(state.move, reason), (do.DestroyIncoming(),)
        case facts.JournalFailed():
            return replace(state, try_again_s=now + JOURNAL_AGAIN_S), ()
        case facts.IncomingBroken(reason=reason) | facts.RefuseAsked(reason=reason) if (
            isinstance(state, Taking) and state.try_again_s is not None
        ):
            return _refuse(state.move, reason)  # the register still says which of the two writes came first
        case facts.Tick() if state.try_again_s is not None and now >= state.try_again_s:
            return replace(state, try_again_s=None), (_write(state),)
        case _:
            return state, ()


def _write(state: Taking | Refusing) -> do.DestinationCommand:
    if isinstance(state, Refusing):
        return do.Decide(Decision.REFUSED)
    return do.JournalOverride() if state.overruling else do.Decide(Decision.TAKEN)


def _returning(state: Returning, fact: facts.DestinationFact, now: float) -> Step:
    match fact:
        case facts.GivenBack():
            return Discarding(state.move, state.reason, given_back=True), (do.DestroyIncoming(),)
        case facts.GuestRunning():  # an operator was faster, and has started it here
            return Ran(state.move), ()
        case facts.RunFailed(reason=reason, never_ran=False):  # or has tried to: it may have run
            return Starting(state.move, reason, failures=1, never=-1, try_again_s=now + RUN_AGAIN_S), ()
        case facts.StoodDown(reason=reason):
            return Discarding(state.move, reason), (do.DestroyIncoming(),)
        case facts.JournalFailed():
            return replace(state, try_again_s=now + JOURNAL_AGAIN_S), ()
        case facts.Tick() if state.try_again_s is not None and now >= state.try_again_s:
            return replace(state, try_again_s=None), (do.GiveBack(),)
        case _:
            return state, ()


def _discarding(state: Discarding, fact: facts.DestinationFact, now: float) -> Step:
    match fact:
        case facts.IncomingDestroyed():
            return Discarded(state.move, state.reason, state.given_back), ()
        case facts.DestroyFailed():
            return replace(state, try_again_s=now + DESTROY_AGAIN_S), ()
        case facts.Tick() if state.try_again_s is not None and now >= state.try_again_s:
            return replace(state, try_again_s=None), (do.DestroyIncoming(),)
        case _:
            return state, ()


def _starting(state: Starting, fact: facts.DestinationFact, now: float) -> Step:
    match fact:
        case facts.GuestRunning():
            return Ran(state.move), (do.AnnounceHere(),) if state.failures else ()
        case facts.NeverRan(reason=reason) if not state.ended:
            return Returning(state.move, reason), (do.GiveBack(),)
        case facts.StoodDown(reason=reason):
            return Discarding(state.move, reason), (do.DestroyIncoming(),)
        case facts.GivenBack():  # which was being written when it was taken for run
            return Discarding(state.move, state.failure, given_back=True), (do.DestroyIncoming(),)
        case facts.TakeAsked(last_copy=True):
            return replace(state, never=-1), ()
        case facts.TakeAsked(last_copy=False) | facts.RefuseAsked() if (
            state.never >= RUN_TRIES and state.try_again_s is not None  # nothing is being tried
        ):
            return Returning(state.move, state.failure), (do.GiveBack(),)
        case facts.RunFailed(reason=reason, never_ran=never_ran, ended=ended):
            never = min(state.never + 1, RUN_TRIES) if never_ran and state.never >= 0 else -1
            wait_s = min(RUN_AGAIN_S * 2.0**state.failures, RUN_AGAIN_AT_MOST_S)
            failures = min(state.failures + 1, RUN_TRIES)
            state = replace(state, failure=reason, failures=failures, never=never, ended=state.ended or ended)
            return replace(state, try_again_s=now + wait_s), ()
        case facts.Tick() if state.try_again_s is not None and now >= state.try_again_s:
            return replace(state, try_again_s=None), (do.RunVcpus(),)
        case _:
            return state, ()
