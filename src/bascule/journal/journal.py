"""The only door to the journal's database: one SQLite connection, used by one thread, in the order of the calls.

A change that others rely on is one transaction, so that a crash leaves either all of it or nothing. Those that say who
has a VM are in `custody`.

What keeps it from growing (docs/soak.md): of the newest `keep_moves` moves everything is kept, of older ones nothing
but the register's `taken`; of one move's facts the first and the last `MOST_FACTS / 2`; and the write-ahead log is
written back once it is longer than `LONG_LOG_BYTES`, after writes for which no VM stands still. SQLite would do that by
itself in the middle of whichever write comes next, the decision among them.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from bascule.errors import Failed, Refused
from bascule.journal import custody
from bascule.journal.records import (
    Accelerator,
    Claim,
    FactRecord,
    Json,
    MoveRecord,
    Side,
    VmRecord,
    move_to_dict,
)
from bascule.journal.rows import insert_vm, move_from_row, vm_from_row
from bascule.journal.schema import prepare
from bascule.migration.model import Decision, Move
from bascule.migration.ownership import Offer
from bascule.migration.register import Ballot
from bascule.migration.story import with_outage

T = TypeVar("T")
KEPT_MOVES = 500
MOST_FACTS = 2000  # of one move
MOST_FACTS_WAITING = 20_000  # in memory, while the disk is full
LONG_LOG_BYTES = 1 << 20


class Journal:
    """What this host knows for sure. Methods may be called at once; they are performed in the order of the calls."""

    def __init__(self, path: Path, *, keep_moves: int = KEPT_MOVES) -> None:
        self._path = path
        self._keep_moves = keep_moves
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._connection: sqlite3.Connection | None = None
        self._facts: list[tuple[str, Side, FactRecord]] = []
        self._writes = 0  # asked for so far
        self._as_decided: tuple[int, VmRecord] | None = None  # the VM decided last, and how many writes there were then

    async def open(self) -> None:
        """Open or create the database. Raises Refused if it cannot be used."""
        await self._run(lambda _: None)

    async def thread_id(self) -> int:
        """Return the kernel's number of the thread that writes."""
        return await self._run(lambda _: threading.get_native_id())

    async def close(self) -> None:
        """Write what is left and close."""
        try:
            if self._connection is not None:
                await self.flush_facts()
                await self._run(lambda db: db.close())
        finally:
            self._connection = None
            self._thread.shutdown(wait=True)

    def size_bytes(self) -> int:
        """Return the size of the database with its write-ahead log, in bytes."""
        return self._log_bytes() + (self._path.stat().st_size if self._path.exists() else 0)

    def _log_bytes(self) -> int:
        log = self._path.with_name(f"{self._path.name}-wal")
        return log.stat().st_size if log.exists() else 0

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def job() -> T:
            if self._connection is None:
                self._connection = self._connect()
            try:
                return work(self._connection)
            except sqlite3.Error as error:
                raise Failed(
                    f"cannot use the journal {self._path}: {error}",
                    "see that its folder has room and can be written to",
                ) from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, job)

    async def _write(self, work: Callable[[sqlite3.Connection], T], *, tidy: bool = False) -> T:
        """Perform `work` as one transaction. `tidy`: no VM waits for it, and a long log may be written back as well."""
        self._writes += 1

        def job(db: sqlite3.Connection) -> T:
            db.execute("begin immediate")
            try:
                result = work(db)
                db.execute("commit")
            except BaseException:
                if db.in_transaction:  # after a full disk SQLite has rolled back by itself
                    db.execute("rollback")
                raise
            if tidy and self._log_bytes() > LONG_LOG_BYTES:
                _write_back(db, "truncate")
            return result

        return await self._run(job)

    def _connect(self) -> sqlite3.Connection:
        db = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            db.row_factory = sqlite3.Row
            prepare(db, str(self._path))
            _check(db)
        except BaseException as error:
            if db is not None:
                db.close()
            if not isinstance(error, sqlite3.Error | OSError):
                raise
            raise Refused(
                f"cannot open the journal {self._path}: {error}",
                "check that its folder is writable and not full; a damaged journal can be restored from a copy",
            ) from error
        return db

    # --- VMs ---------------------------------------------------------------------------------------------------------

    async def vms(self) -> list[VmRecord]:
        """Return the VMs that belong to this host, by name."""
        return await self._run(
            lambda db: [vm_from_row(row) for row in db.execute("select * from vm where here = 1 order by name")]
        )

    async def vm(self, name: str) -> VmRecord | None:
        """Return the VM of this name that belongs to this host."""
        return await self._run(lambda db: _one_vm(db, "select * from vm where name = ? and here = 1", (name,)))

    async def vm_by_uuid(self, uuid: str) -> VmRecord | None:
        """Return what is known of a VM, here or handed over."""
        if self._as_decided is not None:
            writes, vm = self._as_decided
            if vm.uuid == uuid and writes == self._writes:
                return vm  # read back by the deciding write, and nobody has asked for another since
        return await self._run(lambda db: _one_vm(db, "select * from vm where uuid = ?", (uuid,)))

    async def handed_over(self, name: str) -> VmRecord | None:
        """Return the newest VM of this name that this host has handed over, to say where it went."""
        query = "select * from vm where name = ? and here = 0 order by epoch desc limit 1"
        return await self._run(lambda db: _one_vm(db, query, (name,)))

    async def define(self, vm: VmRecord) -> None:
        """Add a VM. Raises Refused if the name or the UUID is taken here."""

        def work(db: sqlite3.Connection) -> None:
            try:
                insert_vm(db, vm)
            except sqlite3.IntegrityError as error:
                raise Refused(
                    f"cannot define vm {vm.name}: a VM of this name or UUID is already known to this host",
                    f"choose another name, or delete it first: bascule vm delete {vm.name}",
                ) from error

        await self._write(work)

    async def delete(self, uuid: str) -> None:
        """Forget a VM."""
        await self._write(lambda db: db.execute("delete from vm where uuid = ?", (uuid,)))

    async def set_process(self, uuid: str, process: Json | None, accelerator: Accelerator | None, wanted: str) -> None:
        """Note the VM's QEMU process, or that it has none, and whether it is meant to run."""
        values = (json.dumps(process) if process else None, accelerator, wanted, uuid)
        await self._write(
            lambda db: db.execute("update vm set process = ?, accelerator = ?, wanted = ? where uuid = ?", values),
            tidy=True,
        )

    # --- ownership ---------------------------------------------------------------------------------------------------

    async def offer(self, uuid: str, offer: Offer) -> None:
        """Write the offer. From here on this host does not run a stopped copy before the offer is settled.

        Raises Refused if the VM does not belong to this host, or another offer of it stands.
        """

        def work(db: sqlite3.Connection) -> None:
            if not custody.offer(db, uuid, offer):
                raise Refused(
                    f"cannot offer vm {uuid} to host {offer.to}: it is not this host's, or is offered already",
                    "see bascule moves",
                )

        await self._write(work)

    async def withdraw(self, move: Move) -> None:
        """Settle the offer of this move, if there is one: the VM stays.

        The proposed epoch is used up all the same, since its register may hold `refused` for ever: this host owns the
        VM at that epoch now, and the next move proposes a later one.
        """
        await self._write(lambda db: custody.keep(db, move.vm_uuid, move.id, move.epoch))

    async def note_return(self, move: Move) -> None:
        """The destination took the VM and gave it back: it is this host's, at the epoch after the move's."""
        await self._write(lambda db: custody.keep(db, move.vm_uuid, move.id, move.epoch + 1))

    async def release(self, move: Move, ended: Json | None = None) -> None:
        """The VM belongs to the move's destination now. The row stays, to answer late questions.

        `ended`: the report of the move, where it ends by this without that the VM runs there; else a restarted agent
        takes it for one that does.
        """

        def work(db: sqlite3.Connection) -> None:
            custody.release(db, move.vm_uuid, move.destination, move.epoch)
            if ended is not None:
                _end(db, move.id, "source", ended["outcome"], ended["reason"], report=ended)

        await self._write(work)

    async def decision(self, ballot: Ballot) -> Decision | None:
        """Read what the register holds for this ballot."""

        def work(db: sqlite3.Connection) -> Decision | None:
            entry = custody.read(db, ballot.vm_uuid, ballot.epoch)
            return entry.told_to(ballot.move_id) if entry is not None else None

        return await self._run(work)

    async def decide(self, ballot: Ballot, value: Decision, taken: VmRecord | None = None) -> Decision:
        """Write the register unless it is written, and return what the ballot holds; see `custody.decide`.

        What it makes of the VM is read back with it, so that the gate's question, which follows in the blackout, is
        answered without another turn of the thread as long as no write has been asked for in between.
        """

        def work(db: sqlite3.Connection) -> tuple[Decision, VmRecord | None]:
            held = custody.decide(db, ballot, value, taken)
            return held, _one_vm(db, "select * from vm where uuid = ?", (ballot.vm_uuid,))

        self._as_decided = None
        number = self._writes + 1
        held, vm = await self._write(work)
        if vm is not None:
            self._as_decided = number, vm
        return held

    async def fate(self, ballot: Ballot) -> str | None:
        """Return what became of a VM that was taken: `ran`, `given back`, or None if that is open."""
        return await self._run(lambda db: custody.fate(db, ballot))

    async def give_back(self, move: Move) -> None:
        """Give the VM, which was taken by this move and never ran, back to its source.

        Raises Refused if it is not this host's to give any more.
        """

        def work(db: sqlite3.Connection) -> None:
            if not custody.give_back(db, move):
                raise Refused(f"cannot give vm {move.vm} back to host {move.source}: it is not this host's to give")

        await self._write(work)

    async def override(self, claim: Claim, taken: VmRecord | None = None) -> Decision:
        """Make this host the VM's owner by an operator's word; see `custody.override`."""
        return await self._write(lambda db: custody.override(db, claim, taken))

    async def stand_down(self, claim: Claim) -> bool:
        """Accept that an operator gave the VM to another host. Return False if this host has as good a claim."""
        return await self._write(lambda db: custody.stand_down(db, claim))

    async def claims(self) -> list[Claim]:
        """Return the claims of which the other host has not heard yet."""
        return await self._run(custody.claims)

    async def claim_heard(self, claim: Claim) -> None:
        """The other host has heard of this claim."""
        await self._write(lambda db: custody.claim_heard(db, claim))

    # --- moves -------------------------------------------------------------------------------------------------------

    async def begin_move(self, record: MoveRecord) -> None:
        """Note a move that begins. Old moves beyond `KEPT_MOVES` are forgotten, unless they are not settled.

        Raises Refused for a move that began here before, and on its destination for one that is decided already: the
        request was late, and what it asks for is over.
        """
        move, side = record.move, record.side

        def work(db: sqlite3.Connection) -> None:
            if db.execute("select 1 from move where id = ? and side = ?", (move.id, side)).fetchone():
                raise Refused(f"cannot begin move {move.id} of vm {move.vm}: it began here before", "see bascule moves")
            decided = db.execute(
                "select value from decision where vm_uuid = ? and epoch = ?", (move.vm_uuid, move.epoch)
            )
            if side == "destination" and (row := decided.fetchone()):
                raise Refused(f"cannot take part in move {move.id} of vm {move.vm}: it is {row['value']} already")
            (number,) = db.execute("select coalesce(max(number), 0) + 1 from move").fetchone()
            db.execute(
                "insert into move (id, side, number, move, peer, definition, accelerator, started_at)"
                " values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    move.id,
                    side,
                    number,
                    json.dumps(move_to_dict(move)),
                    record.peer,
                    json.dumps(record.definition) if record.definition is not None else None,
                    record.accelerator,
                    record.started_at,
                ),
            )
            old = number - self._keep_moves
            db.execute(
                "delete from fact where (move_id, side) in"
                " (select id, side from move where number <= ? and outcome <> 'unknown')",
                (old,),
            )
            db.execute("delete from move where number <= ? and outcome <> 'unknown'", (old,))
            custody.forget_decisions(db)

        await self._write(work)
        await self._empty_log()

    async def _empty_log(self) -> None:
        """Bring what the write-ahead log holds into the database, so that no commit has to do it in a blackout.

        SQLite does it in the commit that makes the log long, whichever that is. It also writes the log from its start
        again afterwards: into blocks that the file has already, which is quicker to make durable.
        """
        await self._run(lambda db: _write_back(db, "passive"))

    async def note_incoming(self, move_id: str, process: Json | None, accelerator: Accelerator | None) -> None:
        """Note the destination's QEMU process for a move."""
        await self._write(
            lambda db: db.execute(
                "update move set process = ?, accelerator = ? where id = ? and side = 'destination'",
                (json.dumps(process) if process else None, accelerator, move_id),
            )
        )

    async def note_state_file(self, move_id: str, state_file: str | None) -> None:
        """Note the durable saved state of a Quick Migration."""
        await self._write(
            lambda db: db.execute(
                "update move set state_file = ? where id = ? and side = 'source'", (state_file, move_id)
            )
        )

    async def end_move(self, move_id: str, side: Side, outcome: str, reason: str, report: Json | None) -> None:
        """Note how a move ended."""
        await self._write(lambda db: _end(db, move_id, side, outcome, reason, report=report), tidy=True)

    async def end_incoming(self, move: Move, outcome: str, reason: str) -> None:
        """Note how a move to here ended and, for one that completed, that the VM ran here: late questions ask that."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "update move set outcome = ?, reason = ? where id = ? and side = 'destination'",
                (outcome, reason, move.id),
            )
            if outcome == "completed":
                custody.note_fate(db, move, "ran")

        await self._write(work, tidy=True)

    async def amend_outage(self, move_id: str, outage: Json) -> None:
        """Put what a probe saw, and what follows from it, into the report of a move that started here."""

        def work(db: sqlite3.Connection) -> None:
            query = "select report from move where id = ? and side = 'source' and report is not null"
            for row in db.execute(query, (move_id,)).fetchall():
                report = json.dumps(with_outage(json.loads(row["report"]), dict(outage)))
                db.execute("update move set report = ? where id = ? and side = 'source'", (report, move_id))

        await self._write(work)

    async def amend_network(self, move_id: str, network: Json) -> None:
        """Put what was seen of the VM's frames into the report of a move that started here."""
        query = "update move set report = json_set(report, '$.network', json(?)) where id = ? and side = 'source'"
        await self._write(lambda db: db.execute(query, (json.dumps(network), move_id)))

    async def moves(self, side: Side, *, unfinished: bool = False, limit: int = KEPT_MOVES) -> list[MoveRecord]:
        """Return this host's moves, newest first; with `unfinished` those alone that are under way or unknown."""
        where = "and (outcome is null or outcome = 'unknown')" if unfinished else ""
        query = f"select * from move where side = ? {where} order by number desc limit ?"  # noqa: S608 - no user text
        return await self._run(lambda db: [move_from_row(row) for row in db.execute(query, (side, limit))])

    async def moves_in_short(self) -> list[MoveRecord]:
        """Return all of this host's moves, newest first; of each report `total_s` alone, since reports are long."""
        columns = "id, side, move, peer, null definition, process, accelerator, state_file, outcome, reason, started_at"
        total = "case when report is null then null else json_object('total_s', json_extract(report, '$.total_s')) end"
        query = f"select {columns}, {total} report from move order by number desc"  # noqa: S608 - no user text
        return await self._run(lambda db: [move_from_row(row) for row in db.execute(query)])

    async def move(self, move_id: str, side: Side) -> MoveRecord | None:
        """Return one move."""

        def work(db: sqlite3.Connection) -> MoveRecord | None:
            row = db.execute("select * from move where id = ? and side = ?", (move_id, side)).fetchone()
            return move_from_row(row) if row else None

        return await self._run(work)

    async def last_move(self, vm_uuid: str) -> MoveRecord | None:
        """Return the newest move of a VM that this host took part in."""

        def work(db: sqlite3.Connection) -> MoveRecord | None:
            query = "select * from move where json_extract(move, '$.vm_uuid') = ? order by number desc limit 1"
            row = db.execute(query, (vm_uuid,)).fetchone()
            return move_from_row(row) if row else None

        return await self._run(work)

    def note_fact(self, move_id: str, side: Side, fact: FactRecord) -> None:
        """Keep a fact in memory until `flush_facts`, so that nothing is written during a blackout."""
        self._facts.append((move_id, side, fact))
        if len(self._facts) > MOST_FACTS_WAITING:
            del self._facts[: MOST_FACTS_WAITING // 2]

    async def flush_facts(self) -> None:
        """Write the facts noted so far. Those that cannot be written are kept for the next time."""
        facts, self._facts = self._facts, []
        if not facts:
            return

        def work(db: sqlite3.Connection) -> None:
            for move_id, side, fact in facts:
                newest = db.execute(
                    "select coalesce(max(number), 0) from fact where move_id = ? and side = ?", (move_id, side)
                )
                number = newest.fetchone()[0] + 1
                values = (move_id, side, number, fact.at_s, fact.name, json.dumps(fact.data))
                db.execute("insert into fact values (?, ?, ?, ?, ?, ?)", values)
                if number > MOST_FACTS:  # a move that is not settled for days
                    middle = (move_id, side, number - MOST_FACTS // 2)
                    db.execute("delete from fact where move_id = ? and side = ? and number = ?", middle)

        try:
            await self._write(work, tidy=True)
        except Failed:
            self._facts = facts + self._facts
            raise

    async def facts(self, move_id: str, side: Side) -> Sequence[FactRecord]:
        """Return what happened in a move, in order."""
        query = "select * from fact where move_id = ? and side = ? order by number"
        return await self._run(
            lambda db: [
                FactRecord(row["at_s"], row["name"], json.loads(row["data"]))
                for row in db.execute(query, (move_id, side))
            ]
        )


def _end(db: sqlite3.Connection, move_id: str, side: Side, outcome: str, reason: str, *, report: Json | None) -> None:
    """Note how a move ended. What is known is not unknown again: it may be told late that it was."""
    values = (outcome, reason, json.dumps(report) if report is not None else None, move_id, side, outcome)
    db.execute(
        "update move set outcome = ?, reason = ?, report = ? where id = ? and side = ?"
        " and (? <> 'unknown' or outcome is null or outcome = 'unknown')",
        values,
    )


def _write_back(db: sqlite3.Connection, how: str) -> None:
    """Bring the log into the database. If that fails, on a full disk, what is in the log is durable all the same."""
    with suppress(sqlite3.Error):
        db.execute(f"pragma wal_checkpoint({how})").fetchall()


def _check(db: sqlite3.Connection) -> None:
    """Raise sqlite3.Error for a damaged database."""
    (found,) = db.execute("pragma quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(f"it is damaged: {found}")
    db.execute("select count(*) from vm")


def _one_vm(db: sqlite3.Connection, query: str, values: tuple[Any, ...]) -> VmRecord | None:
    row = db.execute(query, values).fetchone()
    return vm_from_row(row) if row else None
