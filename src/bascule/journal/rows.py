"""The journal's records as rows of its database, and back."""

from __future__ import annotations

import json
import sqlite3

from bascule.journal.records import MoveRecord, VmRecord, move_from_dict
from bascule.migration.ownership import Offer


def insert_vm(db: sqlite3.Connection, vm: VmRecord) -> None:
    """Add a row. Raises sqlite3.IntegrityError if the UUID or the name is taken."""
    offer = vm.offer
    db.execute(
        "insert into vm values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            vm.uuid,
            vm.name,
            json.dumps(vm.definition),
            vm.owner,
            int(vm.here),
            vm.epoch,
            offer.to if offer else None,
            offer.epoch if offer else None,
            offer.move_id if offer else None,
            json.dumps(vm.process) if vm.process else None,
            vm.accelerator,
            vm.wanted,
        ),
    )


def vm_from_row(row: sqlite3.Row) -> VmRecord:
    """Read a row of `vm`."""
    offer = None
    if row["offer_move"] is not None:
        offer = Offer(row["offer_to"], row["offer_epoch"], row["offer_move"])
    return VmRecord(
        uuid=row["uuid"],
        name=row["name"],
        definition=json.loads(row["definition"]),
        owner=row["owner"],
        here=bool(row["here"]),
        epoch=row["epoch"],
        offer=offer,
        process=json.loads(row["process"]) if row["process"] else None,
        accelerator=row["accelerator"],
        wanted=row["wanted"],
    )


def move_from_row(row: sqlite3.Row) -> MoveRecord:
    """Read a row of `move`."""
    return MoveRecord(
        move=move_from_dict(json.loads(row["move"])),
        side=row["side"],
        peer=row["peer"],
        started_at=row["started_at"],
        definition=json.loads(row["definition"]) if row["definition"] else None,
        process=json.loads(row["process"]) if row["process"] else None,
        accelerator=row["accelerator"],
        state_file=row["state_file"],
        outcome=row["outcome"],
        reason=row["reason"],
        report=json.loads(row["report"]) if row["report"] else None,
    )
