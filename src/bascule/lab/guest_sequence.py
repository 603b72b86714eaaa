"""Reads the numbered records that a guest wrote to its disk, and says whether more than one guest wrote them.

See `guest/sequence_record.py` for how a record looks. Two copies of a guest that run at once write records with the
same numbers into the same slots; what is left is a chain with a link that does not fit.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bascule.lab.guest.sequence_record import RECORD_BYTES, Record, unpack

_PROBLEMS_LIMIT = 20
_NOTHING = bytes(RECORD_BYTES)


@dataclass(frozen=True, slots=True)
class SequenceReport:
    """What a disk's sequence says. `first` and `last` are -1 if there is no record.

    A guest was told that record `last` is on the disk, so it must be no smaller than what the guest's status said.
    `boots` are the boots of the guest, in order; `problems` is empty if one guest at a time wrote every record.
    """

    first: int
    last: int
    boots: tuple[str, ...]
    problems: tuple[str, ...]


def inspect(disk: Path) -> SequenceReport:
    """Read and check the sequence on a raw disk image; the guest may be running, or not. Raises OSError.

    A qcow2 image is to be converted first (`qemu-img convert -O raw`).
    """
    problems: list[str] = []
    records: dict[int, Record] = {}
    slots = disk.stat().st_size // RECORD_BYTES
    for slot, data in _written_slots(disk):
        record = unpack(data)
        if record is None:
            problems.append(f"slot {slot} holds something that is no record")
        elif record.number % slots != slot:
            problems.append(f"slot {slot} holds record {record.number}, whose place is another")
        else:
            records[record.number] = record
    if not records:
        return SequenceReport(-1, -1, (), tuple(problems[:_PROBLEMS_LIMIT]))
    last = max(records)
    first = max(0, last + 1 - slots)
    _read_missing_again(disk, records, range(first, last + 1), slots)
    problems += _gaps(records, first, last)
    problems += _broken_links(records)
    boots, returns = _boots(records)
    return SequenceReport(first, last, boots, tuple([*problems, *returns][:_PROBLEMS_LIMIT]))


def _written_slots(disk: Path) -> Iterator[tuple[int, bytes]]:
    with disk.open("rb") as image:
        slot = 0
        while chunk := image.read(RECORD_BYTES * 2048):
            for start in range(0, len(chunk) - RECORD_BYTES + 1, RECORD_BYTES):
                data = chunk[start : start + RECORD_BYTES]
                if data != _NOTHING:
                    yield slot, data
                slot += 1


def _read_missing_again(disk: Path, records: dict[int, Record], numbers: range, slots: int) -> None:
    """A guest that runs may have written them when their part of the disk had been read, and the next part not yet."""
    with disk.open("rb") as image:
        for number in numbers:
            if number not in records:
                image.seek(number % slots * RECORD_BYTES)
                record = unpack(image.read(RECORD_BYTES))
                if record is not None and record.number == number:
                    records[number] = record


def _gaps(records: dict[int, Record], first: int, last: int) -> Iterator[str]:
    for number in range(first, last + 1):
        if number not in records:
            yield f"record {number} is missing, though {last} was written"
    for number in records:
        if number < first:
            yield f"record {number} is left over, though {last} was written"


def _broken_links(records: dict[int, Record]) -> Iterator[str]:
    for number, record in sorted(records.items()):
        before = records.get(number - 1)
        if before is None:
            continue
        if record.previous != before.check:
            yield f"record {number} follows another record {number - 1} than the one on the disk: two guests wrote"
        elif record.conflicts > before.conflicts:
            yield f"before record {number} the guest itself found records of another"
        elif record.boot_id == before.boot_id and record.uptime_ns <= before.uptime_ns:
            yield f"record {number} was written before record {number - 1}"


def _boots(records: dict[int, Record]) -> tuple[tuple[str, ...], list[str]]:
    """The boots in the order of their records, and a complaint for each that came back after another."""
    boots: list[str] = []
    returns = []
    for number, record in sorted(records.items()):
        boot = str(uuid.UUID(bytes=record.boot_id))
        if boots and boots[-1] == boot:
            continue
        if boot in boots:
            returns.append(f"record {number} is of boot {boot}, which another had followed: two guests wrote")
        boots.append(boot)
    return tuple(boots), returns
