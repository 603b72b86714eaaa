from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bascule.lab import guest_sequence
from bascule.lab.guest.sequence import Appender, Disk
from bascule.lab.guest.sequence_record import RECORD_BYTES, Record, unpack
from bascule.lab.guest_sequence import inspect

FIRST_BOOT, SECOND_BOOT = uuid.UUID(int=1), uuid.UUID(int=2)
SLOTS = 16

Boot = Callable[..., Appender]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(SLOTS * RECORD_BYTES))
    return path


@pytest.fixture
def boot(image: Path) -> Iterator[Boot]:
    """Boot guests on the image: `boot(SECOND_BOOT, records=3)` appends three records and returns the appender."""
    disks = []

    def start(boot_id: uuid.UUID = FIRST_BOOT, records: int = 0) -> Appender:
        disks.append(Disk(str(image), flags=0))  # a test's file may lie where direct I/O does not work
        appender = Appender(disks[-1], boot_id.bytes)
        append(appender, records)
        return appender

    yield start
    for disk in disks:
        disk.close()


def append(appender: Appender, records: int) -> None:
    for _ in range(records):
        appender.append()


@pytest.mark.parametrize("records", [0, 1, SLOTS - 1, SLOTS, SLOTS + 1, 5 * SLOTS + 3])
def test_one_guest_leaves_a_faultless_sequence(image: Path, boot: Boot, records: int) -> None:
    appender = boot(records=records)
    report = inspect(image)
    assert report.problems == ()
    assert (appender.number, report.last, appender.conflicts) == (records - 1, records - 1, 0)
    assert report.first == (-1 if not records else max(0, records - SLOTS))


@pytest.mark.parametrize("records", [0, 1, 2, 7, SLOTS - 1, SLOTS, SLOTS + 1, 3 * SLOTS - 1, 3 * SLOTS + 5])
def test_a_guest_that_boots_again_continues_where_it_was(image: Path, boot: Boot, records: int) -> None:
    boot(records=records)
    again = boot(SECOND_BOOT)
    assert again.number == records - 1
    append(again, 3)
    report = inspect(image)
    assert report.problems == ()
    assert report.last == records + 2
    assert report.boots[-1] == str(SECOND_BOOT)
    assert again.conflicts == 0


def test_a_copy_that_ran_on_from_the_same_moment_is_found_by_the_guest_and_on_the_disk(image: Path, boot: Boot) -> None:
    source = boot(records=5)
    destination = boot()  # the same boot, as a moved guest is
    append(destination, 2)
    append(source, 2)
    append(destination, 1)
    assert source.conflicts > 0
    assert destination.conflicts > 0
    problems = inspect(image).problems
    assert any("two guests wrote" in problem for problem in problems)
    assert any("the guest itself found" in problem for problem in problems)


def test_a_copy_that_ran_for_one_record_only_is_found(image: Path, boot: Boot) -> None:
    source = boot(records=5)
    boot(records=1)
    append(source, 3)  # all that the copy wrote is overwritten
    assert source.conflicts == 1
    assert any("the guest itself found" in problem for problem in inspect(image).problems)


def test_a_copy_that_wrote_last_leaves_a_link_that_does_not_fit(image: Path, boot: Boot) -> None:
    source = boot(records=5)
    copy = boot()
    append(source, 2)
    append(copy, 1)  # it takes the place of the source's first
    problems = inspect(image).problems
    assert "record 6 follows another record 5 than the one on the disk: two guests wrote" in problems
    append(source, 1)
    assert source.conflicts == 0  # the source sees only its last record and the next place
    assert copy.conflicts == 1


def test_another_guest_on_the_same_disk_is_found(image: Path, boot: Boot) -> None:
    one = boot(records=3)
    other = boot(SECOND_BOOT, records=2)
    append(one, 4)
    append(other, 1)
    assert one.conflicts
    assert any("which another had followed" in problem for problem in inspect(image).problems) or other.conflicts


def test_a_record_that_got_lost_is_found(image: Path, boot: Boot) -> None:
    boot(records=7)
    with image.open("r+b") as disk:
        disk.seek(3 * RECORD_BYTES)
        disk.write(bytes(RECORD_BYTES))
    assert inspect(image).problems == ("record 3 is missing, though 6 was written",)


def test_what_a_running_guest_wrote_while_its_disk_was_read_is_not_missing(
    image: Path, boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote 3 and 4 after their part had been read, and 5 before the next was."""
    boot(records=6)
    read = list(guest_sequence._written_slots(image))
    monkeypatch.setattr(guest_sequence, "_written_slots", lambda _disk: [*read[:3], read[5]])
    assert inspect(image).problems == ()


def test_an_old_record_that_came_back_is_found(image: Path, boot: Boot) -> None:
    appender = boot(records=SLOTS)
    old = image.read_bytes()[2 * RECORD_BYTES : 3 * RECORD_BYTES]
    append(appender, SLOTS)
    with image.open("r+b") as disk:
        disk.seek(2 * RECORD_BYTES)
        disk.write(old)
    problems = inspect(image).problems
    assert f"record {SLOTS + 2} is missing, though {2 * SLOTS - 1} was written" in problems
    assert f"record 2 is left over, though {2 * SLOTS - 1} was written" in problems


def test_a_damaged_record_is_found(image: Path, boot: Boot) -> None:
    boot(records=7)
    with image.open("r+b") as disk:
        disk.seek(3 * RECORD_BYTES + 30)
        disk.write(b"?")
    assert "slot 3 holds something that is no record" in inspect(image).problems


def test_a_record_in_the_wrong_place_is_found(image: Path, boot: Boot) -> None:
    boot(records=7)
    first = image.read_bytes()[:RECORD_BYTES]
    with image.open("r+b") as disk:
        disk.seek(10 * RECORD_BYTES)
        disk.write(first)
    assert "slot 10 holds record 0, whose place is another" in inspect(image).problems


def test_a_record_survives_packing_and_damage_does_not() -> None:
    record = Record(boot_id=bytes(range(16)), number=9, uptime_ns=8, conflicts=7, nonce=os.urandom(8), previous=5)
    packed = record.pack()
    assert len(packed) == RECORD_BYTES
    read = unpack(packed)
    assert read is not None
    assert (read.number, read.uptime_ns, read.conflicts, read.previous) == (9, 8, 7, 5)
    for at in range(64):
        assert unpack(packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]) is None


def test_a_disk_without_room_is_refused(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(bytes(RECORD_BYTES - 1))
    with pytest.raises(ValueError, match="has no room"):
        Disk(str(small), flags=0)
