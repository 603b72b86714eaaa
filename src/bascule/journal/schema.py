"""The journal's tables. `PRAGMA user_version` holds the version; a newer journal than the code is refused.

- `vm`: one row for each VM that this host owns or has handed over. `owner` and `epoch` say who owns it, the `offer_`
  columns hold an offer that is not settled. A VM that moved away keeps its row, so that a late question about it has an
  answer.
- `decision`: the decision register, written once for each VM and epoch. `fate` says what became of a VM that was taken.
- `claim`: VMs that an operator gave to this host, of which the other host has not heard yet.
- `move`: one row for each move that this host took part in, and `fact` what happened in it, in order.
"""

from __future__ import annotations

import sqlite3

from bascule.errors import Refused

VERSION = 2
LONGEST_LOG_PAGES = 4096  # 16 MiB

TABLES = """
create table vm (
    uuid text primary key,
    name text not null,
    definition text not null,          -- JSON
    owner text not null,
    here integer not null,             -- 1 when the owner is this host
    epoch integer not null,
    offer_to text,
    offer_epoch integer,
    offer_move text,
    process text,                      -- JSON of the QEMU process, null when stopped
    accelerator text,                  -- what the process runs on
    wanted text not null default 'stopped'
) strict;
create unique index one_name_here on vm (name) where here = 1;

create table decision (
    vm_uuid text not null,
    epoch integer not null,
    value text not null check (value in ('taken', 'refused')),
    move_id text not null,
    at text not null,
    primary key (vm_uuid, epoch)
) strict, without rowid;

create table move (
    id text not null,
    side text not null check (side in ('source', 'destination')),
    number integer not null,           -- in order of start on this host
    move text not null,                -- JSON of migration.model.Move
    peer text not null,                -- where the other agent answers
    definition text,                   -- JSON, on the destination
    process text,                      -- JSON of the incoming QEMU, on the destination
    accelerator text,
    state_file text,
    outcome text,                      -- null while the move is under way
    reason text not null default '',
    started_at text not null,
    report text,                       -- JSON
    primary key (id, side)
) strict;

create table fact (
    move_id text not null,
    side text not null,
    number integer not null,
    at_s real not null,                -- monotonic seconds since the move's start on this host
    name text not null,
    data text not null,                -- JSON
    primary key (move_id, side, number)
) strict, without rowid;
"""


# What brings a journal of the version before to this one.
UPGRADES = {
    2: """
alter table decision add column fate text;  -- of what was taken: 'ran' or 'given back'
create table claim (
    vm_uuid text primary key,
    owner text not null,               -- this host
    epoch integer not null,
    against text not null,             -- the host that is to stand down
    peer text not null,                -- where its agent answers
    move_id text not null,
    reason text not null,
    at text not null
) strict;
"""
}


def prepare(connection: sqlite3.Connection, path: str) -> None:
    """Bring the database to `VERSION`, one version after the other. What was begun and not finished is begun again."""
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.execute("pragma foreign_keys = on")
    # The journal writes the log back when nobody waits; this is for a host on which nothing of that kind happens.
    connection.execute(f"pragma wal_autocheckpoint = {LONGEST_LOG_PAGES}")
    (found,) = connection.execute("pragma user_version").fetchone()
    if found > VERSION:
        raise Refused(
            f"cannot open the journal {path}: it has version {found}, this Bascule knows version {VERSION}",
            "install the Bascule that wrote it, or a newer one",
        )
    for version in range(found + 1, VERSION + 1):
        script = UPGRADES.get(version, TABLES)
        connection.executescript(f"begin; {script} pragma user_version = {version}; commit;")
