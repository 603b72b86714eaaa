"""What the world of two hosts is made of: QEMUs, questions between agents, and what is going to happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bascule.migration import commands as do
from bascule.migration.recovery import Copy, source_copy

Choice = tuple[str, Callable[[], None]]

# What `migration.commands` promises of the order in which commands are performed.
JOURNAL_WRITES = (do.JournalOffer, do.JournalWithdrawal, do.DestroySource, do.Conclude, do.Decide)
WAITS_FOR: dict[type, tuple[type, ...]] = {
    do.CancelCopy: (do.StartCopy, do.SaveState),
    do.DestroyIncoming: (do.StartIncoming,),
}


@dataclass(eq=False)
class Qemu:
    """A QEMU process: `running` says whether vCPUs run, `copy` how far its side of the copy is.

    `earlier`: a move that ended long ago left `completed` behind as the status of its last migration.
    """

    running: bool = False
    alive: bool = True
    copy: Copy = Copy.NONE
    earlier: bool = False

    @property
    def as_source(self) -> Copy:
        """What a restarted agent makes of what QEMU says."""
        if not self.alive:
            return Copy.GONE
        status = {Copy.NONE: "completed" if self.earlier and self.running else "failed", Copy.COMPLETE: "completed"}
        state = "running" if self.running else "postmigrate"
        return source_copy(status.get(self.copy, "active"), state)


@dataclass(eq=False)
class Request:
    """A question of one agent to the other, and whether anybody still waits for its answer."""

    name: str
    asked_by: int  # which life of the asking agent
    waiting: bool = True


@dataclass(eq=False)
class Pending:
    """Something that is going to happen: on host A or B, or in the network between them."""

    side: str
    name: str
    effect: Callable[[], None]
    command: object = None
    request: Request | None = None
