"""The stores that the conformance suite runs on. A new one needs a function that opens it, and its line in `STORES`.

Every store is used through clients: whoever asks gets one of its own, as each agent would.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bascule.journal.journal import Journal
from bascule.journal.records import MoveRecord, VmRecord
from bascule.journal.register import JournalRegister
from bascule.migration.model import Move
from bascule.migration.register import Ballot, DecisionRegister, MemoryRegister


class Store(Protocol):
    """One register, and what can be done to it."""

    def client(self, ballot: Ballot) -> DecisionRegister:
        """Return one who asks, on behalf of a host that could take the ballot's VM."""
        ...


class DurableStore(Store, Protocol):
    """A store that outlives whoever keeps it."""

    async def reopen(self) -> None:
        """Close in good order, and open again."""
        ...

    async def crash(self) -> None:
        """End at once, as by `kill -9`, and open what is left."""
        ...

    def fail_next_write(self, *, made: bool) -> None:
        """Let the next write fail; `made`: it is durable all the same, and nobody learns of it."""
        ...


class ForgetfulStore(Store, Protocol):
    """A store that drops what nobody can ask for any more."""

    async def forget(self, ballot: Ballot) -> None:
        """Come to the point where a refusal of this ballot may be forgotten, and forget."""
        ...


# --- in memory -----------------------------------------------------------------------------------------------------


@dataclass
class InMemory:
    register: MemoryRegister

    def client(self, ballot: Ballot) -> DecisionRegister:  # noqa: ARG002 - it can hold any VM
        return self.register


@asynccontextmanager
async def in_memory(_: Path) -> AsyncIterator[InMemory]:
    yield InMemory(MemoryRegister())


# --- the destination's journal -------------------------------------------------------------------------------------


class Stumbling:
    """A connection to the database, the next commit of which fails."""

    def __init__(self, db: sqlite3.Connection, *, made: bool) -> None:
        self._db = db
        self._made = made
        self._done = False

    def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
        if sql == "commit" and not self._done:
            self._done = True
            if self._made:
                self._db.execute(sql)
            raise sqlite3.OperationalError("disk I/O error")
        return self._db.execute(sql, *arguments)

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)


@dataclass
class InTheJournal:
    folder: Path
    journal: Journal
    copies: int = 0

    def client(self, ballot: Ballot) -> DecisionRegister:
        return JournalRegister(self.journal, self._record(ballot))

    @staticmethod
    def _record(ballot: Ballot) -> VmRecord:
        return VmRecord(ballot.vm_uuid, ballot.vm_uuid, {}, owner="h2", here=True, epoch=ballot.epoch)

    async def reopen(self) -> None:
        await self.journal.close()
        self.journal = Journal(self.folder / "journal.db")
        await self.journal.open()

    async def crash(self) -> None:
        """What lies on the disk now is all that there is; the old connection is not asked to tidy up first."""
        self.copies += 1
        folder = self.folder.with_name(f"after-crash-{self.copies}")
        shutil.copytree(self.folder, folder)
        await self.journal.close()
        self.folder = folder
        self.journal = Journal(folder / "journal.db")
        await self.journal.open()

    def fail_next_write(self, *, made: bool) -> None:
        self.journal._connection = Stumbling(self.journal._connection, made=made)  # type: ignore[arg-type, assignment]

    async def forget(self, ballot: Ballot) -> None:
        """The VM went on to a later epoch here, and moves begin, with each of which the journal is tidied."""
        later = VmRecord(ballot.vm_uuid, ballot.vm_uuid, {}, owner="h2", here=True, epoch=ballot.epoch + 1)
        if await self.journal.vm_by_uuid(ballot.vm_uuid) is None:
            await self.journal.define(later)
        move = Move("m-later", "other", "other", "h2", "h3", epoch=9)
        await self.journal.begin_move(MoveRecord(move, "source", "10.0.0.3:7440", "2024-01-01T00:00:00+00:00"))


@asynccontextmanager
async def in_the_journal(folder: Path) -> AsyncIterator[InTheJournal]:
    journal = Journal(folder / "journal" / "journal.db")
    await journal.open()
    store = InTheJournal(folder / "journal", journal)
    yield store
    await store.journal.close()


# --- all of them ---------------------------------------------------------------------------------------------------

Opener = Callable[[Path], AbstractAsyncContextManager[Store]]

STORES: dict[str, Opener] = {"memory": in_memory, "journal": in_the_journal}
DURABLE = ("journal",)
FORGETFUL = ("journal",)
