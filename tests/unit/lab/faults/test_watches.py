"""Two copies that ran at once are seen in QEMU's times, and in the records on the network."""

import random

from bascule.lab.faults.network_watch import Chain
from bascule.lab.faults.qemu_watch import WatchedQemu, doubled
from bascule.lab.guest.sequence_network import Sender
from bascule.lab.guest.sequence_record import Record, unpack
from bascule.lab.processes import Process


def qemu(pid: int, *changes: tuple[bool, float]) -> WatchedQemu:
    watched = WatchedQemu(f"h{pid}", Process(pid, 0))
    for running, at_s in changes:
        watched.note(running=running, at_s=at_s)
    return watched


def test_one_after_the_other_is_no_double() -> None:
    assert doubled([qemu(1, (True, 1.0), (False, 2.0)), qemu(2, (True, 2.0))], 0, 9) == []


def test_an_overlap_of_a_microsecond_is_a_double() -> None:
    (what,) = doubled([qemu(1, (True, 1.0), (False, 2.000001)), qemu(2, (True, 2.0))], 0, 9)
    assert "h1" in what
    assert "h2" in what
    assert "0.001 ms" in what


def test_two_that_run_until_now_are_a_double() -> None:
    assert doubled([qemu(1, (True, 1.0)), qemu(2, (True, 3.0))], 0, 9)


def test_a_source_that_runs_again_after_the_destination_is_a_double_only_if_that_ran() -> None:
    source = qemu(1, (True, 1.0), (False, 2.0), (True, 4.0))
    died = qemu(2, (True, 2.5))
    died.note_death(3.0)
    assert doubled([source, died], 0, 9) == []
    late = qemu(3, (True, 2.5))
    late.note_death(4.5)
    assert doubled([source, late], 0, 9)


def test_what_is_over_is_not_told_again() -> None:
    assert doubled([qemu(1, (True, 1.0), (False, 3.0)), qemu(2, (True, 2.0), (False, 4.0))], 5, 9) == []


def test_whether_it_ran_at_a_time() -> None:
    watched = qemu(1, (True, 1.0), (False, 2.0), (True, 3.0))
    assert [watched.ran_at(at_s) for at_s in (0.5, 1.0, 1.9, 2.0, 2.5, 3.0, 9.0)] == [
        *(False, True, True, False, False, True, True)
    ]


def records(sender: Sender, count: int) -> list[Record]:
    found = [unpack(sender.next()) for _ in range(count)]
    return [record for record in found if record is not None]


def test_one_guest_never_forks_whatever_the_network_does() -> None:
    sent = records(Sender(bytes(16)), 200)
    rng = random.Random(1)
    heard = [record for record in sent if rng.random() > 0.1] + sent[50:60]
    rng.shuffle(heard)
    chain = Chain()
    for record in heard:
        chain.add(record)
    assert chain.forks == []
    assert (chain.last, chain.heard) == (max(record.number for record in heard), len(heard))


def test_the_numbers_of_a_second_copy_fork_the_chain() -> None:
    chain = Chain()
    for record in records(Sender(bytes(16)), 5) + records(Sender(bytes(16)), 5):
        chain.add(record)
    assert "record 0 was sent twice" in chain.forks[0]


def test_a_second_copy_is_seen_even_if_no_number_is_heard_of_both() -> None:
    one, other = records(Sender(bytes(16)), 10), records(Sender(bytes(16)), 10)
    for order in (one[:5] + other[5:], other[5:] + one[:5]):
        chain = Chain()
        for record in order:
            chain.add(record)
        assert chain.forks
