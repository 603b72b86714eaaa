"""What the engine asks its host to do. Each command says which facts may answer it.

The shell starts commands in the order given; those that wait for the other side or for QEMU run beside one another.
Three orders are promised: journal writes are performed strictly in order; what ends a thing (`CancelCopy`,
`DestroyIncoming`) waits for the command that was to begin it (`StartCopy` and `SaveState`, `StartIncoming`); `Conclude`
waits for all commands before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bascule.migration.model import Decision, Outcome


# --- for the source -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckBothSides:
    """Pre-flight. Answer: `Checked`."""


@dataclass(frozen=True, slots=True)
class PrepareDestination:
    """Have the destination start a paused QEMU. Answer: `DestinationReady` or `DestinationFailed`."""


@dataclass(frozen=True, slots=True)
class JournalOffer:
    """Write the offer durably. Answer: `OfferDurable` or `JournalFailed`."""


@dataclass(frozen=True, slots=True)
class StartCopy:
    """Start QEMU's migration to `address`. Answer: `CopyProgress`, `SourceStopped`, `CopyCompleted`, `CopyEnded`."""

    address: str


@dataclass(frozen=True, slots=True)
class SetDowntimeLimit:
    """Tell QEMU how long its stop-and-copy may take by its own reckoning, in whole ms. No answer."""

    limit_ms: int


@dataclass(frozen=True, slots=True)
class SaveState:
    """Stop the VM and save its state to shared storage. Answer: `SourceStopped`, `CopyCompleted` or `CopyEnded`."""


@dataclass(frozen=True, slots=True)
class CancelCopy:
    """End the copy. Answer: `CopyEnded`, `CopyCompleted` if it was too late, or `CancelFailed`.

    A saved state that was not named durably by a `CopyCompleted` before this is removed: it answers `CopyEnded`.
    """


@dataclass(frozen=True, slots=True)
class TellStopped:
    """Tell the destination that the VM stands still. No answer."""


@dataclass(frozen=True, slots=True)
class AskTake:
    """Give the destination our word that the state was sent completely.

    `last_copy`: QEMU here is dead. Answer: `Answer`, `StillLoading` or `NoAnswer`.
    """

    state_file: str | None = None
    last_copy: bool = False


@dataclass(frozen=True, slots=True)
class AskRefuse:
    """Ask the destination to write `refused` unless it has taken. Answer: `Answer` or `NoAnswer`."""

    reason: str


@dataclass(frozen=True, slots=True)
class JournalWithdrawal:
    """Write durably that the offer is withdrawn. Answer: `WithdrawalDurable` or `JournalFailed`."""


@dataclass(frozen=True, slots=True)
class JournalReturn:
    """Write durably that the VM was given back to this host. Answer: `ReturnDurable` or `JournalFailed`."""


@dataclass(frozen=True, slots=True)
class DestroySource:
    """Journal who owns the VM now, then end the source's QEMU and clean up.

    Answer: `JournalFailed` if nothing was done, else `CopyDestroyed`, with what could not be removed.
    """


@dataclass(frozen=True, slots=True)
class LetGo:
    """Journal in one step that the VM is the destination's and that the move ended so; then clean up after QEMU.

    One step, since a restarted agent takes a VM that was released for one that runs there. The saved state of a Quick
    Migration, which nobody can load any more, is removed first. Answer: as `DestroySource`.
    """

    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class RemoveSavedState:
    """Remove the saved state of a Quick Migration. No answer."""


@dataclass(frozen=True, slots=True)
class Conclude:
    """Tell the user the outcome and write the report. No answer."""

    outcome: Outcome
    reason: str


# --- for the destination ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartIncoming:
    """Start a paused QEMU that waits for the state. Answer: `IncomingReady` or `IncomingBroken`."""


@dataclass(frozen=True, slots=True)
class LoadState:
    """Load the saved state, unless QEMU has begun that already. Answer: `IncomingLoaded` or `IncomingBroken`.

    None as long as QEMU does not answer: it may have loaded everything, for an agent before this one.
    """

    state_file: str


@dataclass(frozen=True, slots=True)
class Decide:
    """Write the decision register, once. Answer: `Decided` with what the register holds, or `JournalFailed`."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Write durably that the VM, which never ran here, is the source's again. Answer: `GivenBack`, `JournalFailed`."""


@dataclass(frozen=True, slots=True)
class AskSource:
    """Ask the source what became of the move. Answer: `RefuseAsked` if it is withdrawn, else none."""


@dataclass(frozen=True, slots=True)
class LookAtIncoming:
    """Ask QEMU whether more of the state is coming, whose source is dead.

    Answer: `IncomingLoaded`, or `IncomingBroken` if QEMU has answered for some seconds and has not loaded it. None if
    QEMU does not answer: what it has received so far may be everything.
    """


@dataclass(frozen=True, slots=True)
class DestroyIncoming:
    """End the destination's QEMU and clean up. Answer: `IncomingDestroyed` or `DestroyFailed`."""


# --- for either ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunVcpus:
    """Let the vCPUs run, through the gate. Answer: `GuestRunning` or `RunFailed`."""


@dataclass(frozen=True, slots=True)
class JournalOverride:
    """Write durably that an operator gave this host the VM at an epoch later than the move's, against the other host.

    The other host is told until it has stood down. Answer: `OverrideDurable` on the source, `Decided` on the
    destination, where the register is written with it, or `JournalFailed`.
    """


@dataclass(frozen=True, slots=True)
class AnnounceHere:
    """Tell the network that the VM's place is here. No answer."""


SourceCommand = (
    CheckBothSides
    | PrepareDestination
    | JournalOffer
    | StartCopy
    | SetDowntimeLimit
    | SaveState
    | CancelCopy
    | TellStopped
    | AskTake
    | AskRefuse
    | JournalWithdrawal
    | JournalReturn
    | JournalOverride
    | DestroySource
    | LetGo
    | RemoveSavedState
    | Conclude
    | RunVcpus
    | AnnounceHere
)
DestinationCommand = (
    StartIncoming
    | LoadState
    | Decide
    | JournalOverride
    | GiveBack
    | AskSource
    | LookAtIncoming
    | DestroyIncoming
    | RunVcpus
    | AnnounceHere
)
