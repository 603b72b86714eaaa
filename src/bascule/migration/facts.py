"""What can happen to a move: one frozen record per fact, so that a recorded move can be replayed.

A fact carries what was observed and nothing that was concluded from it. The shell (see `bascule.agent`) turns QEMU's
events, the other agent's answers and the user's wishes into these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bascule.errors import Finding
    from bascule.migration.model import Decision


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went by. The shell sends one several times a second while a move is under way."""


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Somebody wants the move to end with the VM on the source."""

    who: str = "the user"


@dataclass(frozen=True, slots=True)
class RecoverAsked:
    """An operator wants what waits for its next try to be tried now."""


@dataclass(frozen=True, slots=True)
class OperatorRunsHere:
    """An operator has confirmed that the other host is down, and wants the VM to run on this one."""

    who: str = "an operator"


@dataclass(frozen=True, slots=True)
class StoodDown:
    """The journal holds that `owner` owns the VM at a later epoch, by an operator's word: the copy here has to go."""

    owner: str
    reason: str


# --- seen by the source -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    """Both sides were checked; no findings means that the move may start."""

    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class DestinationReady:
    """The destination's QEMU waits for the VM at `address` ("tcp:10.0.0.2:49152"; empty for a Quick Migration)."""

    address: str


@dataclass(frozen=True, slots=True)
class DestinationFailed:
    """The destination could not be prepared, or did not answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class OfferDurable:
    """The source's journal holds *offered to the destination at this epoch*."""


@dataclass(frozen=True, slots=True)
class WithdrawalDurable:
    """The source's journal holds that the offer is withdrawn: this move will never ask the destination to take."""


@dataclass(frozen=True, slots=True)
class ReturnDurable:
    """The source's journal holds that the destination gave the VM back unrun: it is this host's again."""


@dataclass(frozen=True, slots=True)
class OverrideDurable:
    """The source's journal holds that an operator gave it the VM, at an epoch later than the move's."""


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """The state of the copy. `round` is the round under way: 1 sends all memory.

    `at_round_end` marks the reading taken right after QEMU counted the dirty pages for the next round:
    `remaining_bytes` is then what was dirtied during the round that just ended. `bandwidth_bytes_per_s` is QEMU's
    own estimate, by which it compares what remains with its downtime limit.
    """

    round: int
    remaining_bytes: int
    transferred_bytes: int
    bandwidth_bytes_per_s: float
    at_round_end: bool = False


@dataclass(frozen=True, slots=True)
class SourceStopped:
    """No vCPU runs on the source any more."""


@dataclass(frozen=True, slots=True)
class CopyCompleted:
    """The source has sent the VM's state completely: QEMU says `completed`, or the saved state is durable.

    `state_file` names the saved state of a Quick Migration.
    """

    state_file: str | None = None


@dataclass(frozen=True, slots=True)
class CopyEnded:
    """The copy ended before it was complete: it failed, or was cancelled. The state was *not* completely sent."""

    reason: str


@dataclass(frozen=True, slots=True)
class CancelFailed:
    """The copy could not be ended, and it is not known what became of it. It may be tried again."""

    reason: str


@dataclass(frozen=True, slots=True)
class SourceGone:
    """The source's QEMU process is dead, so this copy will never run again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the destination's decision register holds, and whether the VM runs there.

    `given_back`: the destination had taken the VM, no vCPU of it ever ran there, and it has given it up for good.
    `ended`: it has taken the VM, its QEMU there has ended and may have run: it will never be given back, and an
    operator alone can start it there. Agents of older versions do not say so, and then it is not so.
    """

    decision: Decision
    running: bool = False
    reason: str = ""
    given_back: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True)
class StillLoading:
    """The destination answers: it is loading the state, and has not decided."""

    reason: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The destination could not be reached, or did not decide in time. Nothing is known."""

    reason: str


@dataclass(frozen=True, slots=True)
class CopyDestroyed:
    """The source's QEMU process and all that belonged to it are gone, and the journal says who owns the VM now.

    `leftover` says what could not be removed, if anything.
    """

    leftover: str = ""


# --- seen by the destination --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class IncomingReady:
    """The destination's QEMU is started, paused, and waits for the state at `address`."""

    address: str


@dataclass(frozen=True, slots=True)
class IncomingBroken:
    """The destination's QEMU could not be started, died, or could not load the state."""

    reason: str


@dataclass(frozen=True, slots=True)
class IncomingLoaded:
    """The destination's QEMU has loaded everything and stands paused."""


@dataclass(frozen=True, slots=True)
class StopNotice:
    """The source says that the VM stands still, so that frames for it may be drawn to the destination."""


@dataclass(frozen=True, slots=True)
class TakeAsked:
    """The source gives its word that its copy was sent completely and does not run.

    `last_copy`: the source's QEMU is dead, so that the copy here may be the only one.
    """

    state_file: str | None = None
    last_copy: bool = False


@dataclass(frozen=True, slots=True)
class RefuseAsked:
    """The source asks for the decision `refused`, or has withdrawn its offer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision register holds this value, durably."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class NeverRan:
    """The VM was taken, its QEMU here has ended or will not run it, and it is certain that no vCPU has run."""

    reason: str


@dataclass(frozen=True, slots=True)
class GivenBack:
    """The destination's journal holds that the VM was given back to the source."""


@dataclass(frozen=True, slots=True)
class IncomingDestroyed:
    """The destination's QEMU process and all that belonged to it are gone."""


@dataclass(frozen=True, slots=True)
class DestroyFailed:
    """The destination's QEMU process could not be ended, or something of it not be removed. It may be tried again."""

    reason: str


# --- seen by either -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GuestRunning:
    """The vCPUs run on this host."""


@dataclass(frozen=True, slots=True)
class RunFailed:
    """The vCPUs could not be let run on this host, or it is not known whether they do.

    `never_ran`: it is certain that none of them has run, since QEMU itself said no. `ended`, on the destination: its
    QEMU has ended and may have run before, the VM is this host's, and nobody is just starting it. That is so for good.
    """

    reason: str
    never_ran: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True)
class JournalFailed:
    """The write that was asked for last could not be made, or is not known to be durable. It may be tried again."""

    reason: str


SourceFact = (
    Tick
    | CancelAsked
    | RecoverAsked
    | OperatorRunsHere
    | StoodDown
    | Checked
    | DestinationReady
    | DestinationFailed
    | OfferDurable
    | WithdrawalDurable
    | ReturnDurable
    | OverrideDurable
    | CopyProgress
    | SourceStopped
    | CopyCompleted
    | CopyEnded
    | CancelFailed
    | SourceGone
    | Answer
    | StillLoading
    | NoAnswer
    | CopyDestroyed
    | GuestRunning
    | RunFailed
    | JournalFailed
)
DestinationFact = (
    Tick
    | RecoverAsked
    | OperatorRunsHere
    | StoodDown
    | IncomingReady
    | IncomingBroken
    | IncomingLoaded
    | StopNotice
    | TakeAsked
    | RefuseAsked
    | Decided
    | NeverRan
    | GivenBack
    | IncomingDestroyed
    | DestroyFailed
    | GuestRunning
    | RunFailed
    | JournalFailed
)
