"""The states of the source's side of a move: each carries just the data legal in it, and names its successors."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from bascule.migration.convergence import Steering
from bascule.migration.model import Move, Outcome


@dataclass(frozen=True, slots=True)
class Ending:
    """How the move is going to end, once the VM is safe."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Checking:
    """Both sides are being checked; nothing has changed anywhere."""

    move: Move


@dataclass(frozen=True, slots=True)
class Preparing:
    """The destination starts a paused QEMU."""

    move: Move


@dataclass(frozen=True, slots=True)
class Offering:
    """The offer is being written to the source's journal."""

    move: Move
    address: str


@dataclass(frozen=True, slots=True)
class Copying:
    """Pre-copy: the VM runs here while its memory is sent."""

    move: Move
    steering: Steering
    started_s: float
    limit_ms: int


@dataclass(frozen=True, slots=True)
class Saving:
    """Quick Migration: the VM stands still while its state is saved.

    `gone` says how QEMU ended, if it did: the end of the saving, which comes in any case, is waited for all the same.
    """

    move: Move
    gone: str | None = None


@dataclass(frozen=True, slots=True)
class SwitchingOver:
    """The VM stands still while the last of its state is sent."""

    move: Move
    steering: Steering
    stopped_s: float


@dataclass(frozen=True, slots=True)
class Cancelling:
    """The copy is being ended; it is not known yet whether it was complete before that."""

    move: Move
    ending: Ending
    try_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Withdrawing:
    """The state was never completely sent. The offer is being withdrawn and the destination cleaned.

    `settled`: the destination was told, or could not be. `running`: the VM is known to run here; `gone`: its QEMU is
    dead. `announce`: the destination may have drawn the VM's frames to itself. `failures`: how often QEMU could not be
    made to let it run; after some of them the outcome is told as unknown, and it is tried on. `taken`: the destination
    has the VM all the same, which only an operator can have done: it is told as unknown, and his word is waited for.
    """

    move: Move
    ending: Ending
    durable: bool = False
    settled: bool = False
    taken: bool = False
    running: bool = False
    gone: bool = False
    announce: bool = False
    failures: int = 0
    try_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Deciding:
    """The state was sent completely. Only the destination's register says who runs the VM.

    `ending` is set when the move is to be undone: then `refused` is asked for instead of `taken`.
    """

    move: Move
    since_s: float
    state_file: str | None = None
    ending: Ending | None = None
    source_gone: bool = False
    ask_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unsettled:
    """As `Deciding`, but reported as unknown; the copy is kept, paused, and the destination is asked on and on.

    `why`: what is missing, by the last answer or the last silence.
    """

    move: Move
    state_file: str | None
    ending: Ending | None
    source_gone: bool
    ask_again_s: float | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Releasing:
    """The VM belongs to another host for good; the copy here is being destroyed.

    `ending`: by an operator's word. Otherwise the VM runs on the destination.
    """

    move: Move
    ending: Ending | None = None
    try_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class LettingGo:
    """The VM belongs to the destination, has ended there, and its QEMU here is dead: the journal is being told so."""

    move: Move
    ending: Ending
    try_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Confirming:
    """An operator gave the VM to the destination, which alone can tell that it runs; the copy here is gone.

    `reason`: the operator's word. `why`: what is missing, by the last answer or silence. `told`: that it is unknown.
    """

    move: Move
    reason: str
    since_s: float
    ask_again_s: float | None = None
    why: str = ""
    told: bool = False


class Because(Enum):
    """Why a VM whose state was sent completely may run on its source again."""

    REFUSED = auto()  # the register holds `refused`
    GIVEN_BACK = auto()  # the destination took it, never ran it, and gave it up
    OPERATOR = auto()  # an operator has confirmed that the destination is down


@dataclass(frozen=True, slots=True)
class Resuming:
    """The VM is this host's again and is to run here, unless its QEMU is `gone`.

    `durable`: the journal says so, and the gate lets it run. `failures`: as in `Withdrawing`.
    """

    move: Move
    ending: Ending
    because: Because = Because.REFUSED
    durable: bool = False
    gone: bool = False
    failures: int = 0
    try_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more happens."""

    move: Move
    ending: Ending


State = (
    Checking
    | Preparing
    | Offering
    | Copying
    | Saving
    | SwitchingOver
    | Cancelling
    | Withdrawing
    | Deciding
    | Unsettled
    | Releasing
    | LettingGo
    | Confirming
    | Resuming
    | Ended
)

# Which state may follow which (staying is always allowed); `step` is tested to do nothing else. Besides, every state
# but `Confirming` and `Ended` may be followed by `Releasing`: an operator's word for another host can come at any time.
SUCCESSORS: dict[type[State], tuple[type[State], ...]] = {
    Checking: (Preparing, Ended),
    Preparing: (Offering, Withdrawing),
    Offering: (Copying, Saving, Withdrawing),
    Copying: (SwitchingOver, Deciding, Cancelling, Withdrawing),
    Saving: (Deciding, Cancelling, Withdrawing),
    SwitchingOver: (Deciding, Cancelling, Withdrawing),
    Cancelling: (Withdrawing, Deciding),
    Withdrawing: (Ended,),
    Deciding: (Releasing, LettingGo, Resuming, Unsettled),
    Unsettled: (Releasing, LettingGo, Resuming),
    Releasing: (Confirming, Ended),
    LettingGo: (Ended,),
    Confirming: (Ended,),
    Resuming: (Ended,),
    Ended: (),
}
# Entering one of these from a state outside them means that the VM belongs to the destination for good.
AFTER_THE_DECISION: frozenset[type[State]] = frozenset({Releasing, LettingGo, Confirming})
