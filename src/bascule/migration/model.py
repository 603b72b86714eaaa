"""A move: which VM, from where to where, how, and how well it has to go."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mode(StrEnum):
    """How a VM is moved."""

    LIVE = "live"  # pre-copy rounds, a short stop, switchover; connections survive
    QUICK = "quick"  # stopped, saved to storage that both hosts see, restored on the other host


class Outcome(StrEnum):
    """How a move ended."""

    COMPLETED = "completed"  # the VM runs on the destination
    REFUSED = "refused"  # nothing changed
    FAILED = "failed"  # the VM is where it was, the destination is clean
    CANCELLED = "cancelled"  # as failed, because somebody asked for it
    UNKNOWN = "unknown"  # only the absent side can tell


class Decision(StrEnum):
    """The value of the decision register for one VM and one epoch. It is written once."""

    TAKEN = "taken"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Goals:
    """What the administrator asked for: the longest blackout, in ms, and the longest copy, in s."""

    max_blackout_ms: float = 100.0
    deadline_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Move:
    """One move. `epoch` is the proposed one: the owner's epoch plus one."""

    id: str
    vm: str
    vm_uuid: str
    source: str
    destination: str
    epoch: int
    mode: Mode = Mode.LIVE
    goals: Goals = Goals()
