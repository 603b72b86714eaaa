"""Who has a VM: the changes of ownership, each of which is one transaction of the journal.

A VM's row says which host owns it and since which epoch. The epoch only grows, and a change that is older than what the
row says changes nothing. The decision register is a table of its own, since it also answers for VMs that never came.
All functions are called inside a transaction.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

from bascule.journal.records import Claim, VmRecord
from bascule.journal.rows import insert_vm
from bascule.migration.model import Decision, Move
from bascule.migration.ownership import BY_WORD_EPOCHS, Offer
from bascule.migration.register import Ballot, Entry

NO_OFFER = "offer_to = null, offer_epoch = null, offer_move = null"
GONE = "process = null, accelerator = null, wanted = 'stopped'"


# --- on the source -------------------------------------------------------------------------------------------------


def offer(db: sqlite3.Connection, uuid: str, what: Offer) -> bool:
    """Note an offer. Return False if the VM is not this host's, or another offer of it stands."""
    changed = db.execute(
        "update vm set offer_to = ?, offer_epoch = ?, offer_move = ?"
        " where uuid = ? and here = 1 and (offer_move is null or offer_move = ?)",
        (what.to, what.epoch, what.move_id, uuid, what.move_id),
    )
    return bool(changed.rowcount)


def keep(db: sqlite3.Connection, uuid: str, move_id: str, epoch: int) -> None:
    """Settle the offer of this move, if there is one: the VM stays, at `epoch` from now on."""
    db.execute(
        f"update vm set {NO_OFFER}, epoch = max(epoch, ?)"  # noqa: S608 - no user text
        " where uuid = ? and here = 1 and (offer_move is null or offer_move = ?)",
        (epoch, uuid, move_id),
    )


def release(db: sqlite3.Connection, uuid: str, owner: str, epoch: int) -> None:
    """The VM is another host's. The row stays, to answer late questions."""
    db.execute(
        f"update vm set owner = ?, here = 0, epoch = ?, {NO_OFFER}, {GONE} where uuid = ? and epoch < ?",  # noqa: S608
        (owner, epoch, uuid, epoch),
    )


# --- on the destination --------------------------------------------------------------------------------------------


def read(db: sqlite3.Connection, vm_uuid: str, epoch: int) -> Entry | None:
    """Read the register."""
    query = "select value, move_id from decision where vm_uuid = ? and epoch = ?"
    row = db.execute(query, (vm_uuid, epoch)).fetchone()
    return Entry(Decision(row["value"]), row["move_id"]) if row else None


def decide(db: sqlite3.Connection, ballot: Ballot, value: Decision, taken: VmRecord | None) -> Decision:
    """Write the register unless it is written, and return what the ballot holds.

    `taken` is this host's record of the VM in case it is taken: the register and the ownership change together. A wish
    for `taken` without it, with a name that another VM has here, or at an epoch that is over, writes `refused`.
    """
    uuid, epoch = ballot.vm_uuid, ballot.epoch
    if read(db, uuid, epoch) is None:
        over = "select 1 from vm where (name = ? and here = 1 and uuid <> ?) or (uuid = ? and epoch >= ?)"
        name = taken.name if taken is not None else ""
        if taken is None or db.execute(over, (name, uuid, uuid, epoch)).fetchone():
            value = Decision.REFUSED
        at = datetime.now(UTC).isoformat()
        db.execute(
            "insert into decision (vm_uuid, epoch, value, move_id, at) values (?, ?, ?, ?, ?)",
            (uuid, epoch, value.value, ballot.move_id, at),
        )
        if value is Decision.TAKEN and taken is not None:
            _own(db, taken)
    entry = read(db, uuid, epoch)
    if entry is None:
        raise sqlite3.DatabaseError("what was just written is not there")
    return entry.told_to(ballot.move_id)


def _own(db: sqlite3.Connection, vm: VmRecord) -> None:
    db.execute("delete from vm where uuid = ?", (vm.uuid,))
    insert_vm(db, vm)


def note_fate(db: sqlite3.Connection, move: Move, fate: str) -> None:
    """Note beside `taken` what became of the VM: it `ran` here, or was `given back`. For late questions."""
    db.execute(
        "update decision set fate = ? where vm_uuid = ? and epoch = ? and move_id = ? and value = 'taken'",
        (fate, move.vm_uuid, move.epoch, move.id),
    )


def fate(db: sqlite3.Connection, ballot: Ballot) -> str | None:
    """Return what became of a VM that was taken: `ran`, `given back`, or None if that is open."""
    row = db.execute(
        "select fate from decision where vm_uuid = ? and epoch = ? and move_id = ?",
        (ballot.vm_uuid, ballot.epoch, ballot.move_id),
    ).fetchone()
    return row["fate"] if row else None


def give_back(db: sqlite3.Connection, move: Move) -> bool:
    """The VM, taken by this move and never run, is its source's again. Return False if it is not ours to give."""
    given = db.execute(
        f"update vm set owner = ?, here = 0, epoch = ?, {NO_OFFER}, {GONE} where uuid = ? and epoch = ? and here = 1",  # noqa: S608
        (move.source, move.epoch + 1, move.vm_uuid, move.epoch),
    )
    if given.rowcount:
        note_fate(db, move, "given back")
    return fate(db, Ballot.of(move)) == "given back"


# --- by an operator's word -----------------------------------------------------------------------------------------


def override(db: sqlite3.Connection, claim: Claim, taken: VmRecord | None) -> Decision:
    """This host owns the VM at the claim's epoch, and the other host is to be told.

    On the destination `taken` is the record of the VM, and the register is written with it; where it holds `refused`,
    that stands and nothing changes. On the source the register's value for it is `refused`.
    """
    if taken is not None:
        ballot = Ballot(claim.vm_uuid, claim.epoch - BY_WORD_EPOCHS, claim.move_id)
        if decide(db, ballot, Decision.TAKEN, taken) is Decision.REFUSED:
            return Decision.REFUSED
    db.execute(
        f"update vm set epoch = ?, {NO_OFFER} where uuid = ? and here = 1 and epoch < ?",  # noqa: S608 - no user text
        (claim.epoch, claim.vm_uuid, claim.epoch),
    )
    db.execute(
        "insert or replace into claim values (?, ?, ?, ?, ?, ?, ?, ?)",
        (claim.vm_uuid, claim.owner, claim.epoch, claim.against, claim.peer, claim.move_id, claim.reason, claim.at),
    )
    return Decision.TAKEN if taken is not None else Decision.REFUSED


def stand_down(db: sqlite3.Connection, claim: Claim) -> bool:
    """Another host owns the VM at the claim's epoch. Return False if this host knows of one as late, or later.

    The register of the move that was cut short by it is closed, so that a copy still coming in is not taken any more.
    """
    row = db.execute("select owner, epoch from vm where uuid = ?", (claim.vm_uuid,)).fetchone()
    if row is not None and row["epoch"] >= claim.epoch:
        return bool(row["owner"] == claim.owner)
    release(db, claim.vm_uuid, claim.owner, claim.epoch)
    at = datetime.now(UTC).isoformat()
    db.execute(
        "insert or ignore into decision (vm_uuid, epoch, value, move_id, at) values (?, ?, 'refused', ?, ?)",
        (claim.vm_uuid, claim.epoch - BY_WORD_EPOCHS, claim.move_id, at),
    )
    db.execute("delete from claim where vm_uuid = ? and epoch < ?", (claim.vm_uuid, claim.epoch))
    return True


def claims(db: sqlite3.Connection) -> list[Claim]:
    """Return the claims that the other host has not heard of."""
    return [Claim(**{key: row[key] for key in row.keys()}) for row in db.execute("select * from claim")]  # noqa: SIM118 - a Row


def claim_heard(db: sqlite3.Connection, claim: Claim) -> None:
    """The other host has stood down."""
    db.execute("delete from claim where vm_uuid = ? and epoch = ?", (claim.vm_uuid, claim.epoch))


def forget_decisions(db: sqlite3.Connection) -> None:
    """Drop what nobody can ask for any more: refusals of VMs whose epoch has passed here, by the row of the VM.

    A `taken` is never forgotten: a source that was cut off before it heard of it may ask years later, and would run its
    old copy on any other answer.
    """
    db.execute(
        "delete from decision where value = 'refused'"
        " and exists (select 1 from vm where vm.uuid = decision.vm_uuid and vm.epoch >= decision.epoch)"
        " and not exists (select 1 from move where move.id = decision.move_id and move.side = 'destination')"
    )
