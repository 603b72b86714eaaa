"""Commands, as `bascule.agent` performs them: what is promised of their order, and the parts that some fall into.

A command is performed in one step, unless an agent could die within it and leave something half done: those fall into
parts, each of which is one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.explorer.core import Cont, Core
from tests.explorer.world import HostState

from bascule.migration import commands as do


@dataclass(frozen=True)
class FinishSaving:
    """Of `SaveState`: the whole state is in its file."""


@dataclass(frozen=True)
class NameSavedState:
    """Of `SaveState`: the journal names the file."""


@dataclass(frozen=True)
class EndSource:
    """Of `DestroySource`: QEMU is ended, after the journal says who owns the VM."""


@dataclass(frozen=True)
class NoteIncoming:
    """Of `StartIncoming`: the journal names the process."""


@dataclass(frozen=True)
class Listen:
    """Of `StartIncoming` for a live migration: QEMU waits for the state from now on."""


@dataclass(frozen=True)
class NoteEnd:
    """The destination's journal notes how its side ended."""


JOURNAL_WRITES = (
    do.JournalOffer,
    do.JournalWithdrawal,
    do.JournalReturn,
    do.JournalOverride,
    do.DestroySource,
    do.Conclude,
    do.Decide,
    do.GiveBack,
    NoteEnd,
)
WAITS_FOR: dict[type, tuple[type, ...]] = {
    do.CancelCopy: (do.StartCopy,),  # it cuts SaveState short
    do.DestroyIncoming: (do.StartIncoming, NoteIncoming, Listen),
}

__all__ = [
    "Cont",
    "EndSource",
    "Entry",
    "FinishSaving",
    "Listen",
    "NameSavedState",
    "NoteEnd",
    "NoteIncoming",
    "possible",
    "without",
]

Entry = tuple[int, int]  # the number of a move, the number of a command


def possible(core: Core, host: HostState) -> list[tuple[Entry, Any]]:
    """Return what an agent may perform next, in the orders that `bascule.migration.commands` promises."""
    found: list[tuple[Entry, Any]] = []
    before: dict[int, list[type]] = {}
    for entry in host.todo:
        command = core.commands[entry[1]]
        earlier = before.setdefault(entry[0], [])
        blocked = isinstance(command, JOURNAL_WRITES) and any(kind in JOURNAL_WRITES for kind in earlier)
        blocked = blocked or any(kind in earlier for kind in WAITS_FOR.get(type(command), ()))
        blocked = blocked or (isinstance(command, do.Conclude) and bool(earlier))
        earlier.append(type(command))
        if not blocked and all(entry != other for other, _ in found):
            found.append((entry, command))
    return found


def without(todo: tuple[Entry, ...], entry: Entry) -> tuple[Entry, ...]:
    """Return the list without the first such entry."""
    place = todo.index(entry)
    return todo[:place] + todo[place + 1 :]
