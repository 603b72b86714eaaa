from __future__ import annotations

import socket
import struct
import time

from bascule.network.probe.arrival import ANCILLARY_BYTES, SO_TIMESTAMPNS_NEW, ArrivalClock

PATIENCE_S = 20.0
MS = 1_000_000

Ancillary = list[tuple[int, int, bytes]]


def stamp(wall_ns: int) -> Ancillary:
    return [(socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW, struct.pack("=qq", *divmod(wall_ns, 10**9)))]


def test_an_answer_read_late_is_known_to_have_come_early() -> None:
    """Once the kernel stamps at all: it begins some moments after a first socket has asked for it."""
    deadline = time.monotonic() + PATIENCE_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        clock = ArrivalClock(sock)
        while True:
            before = time.monotonic_ns()
            sock.sendto(b"x", sock.getsockname())  # on loopback it has arrived when this returns
            after = time.monotonic_ns()
            while time.monotonic_ns() < after + 20 * MS:
                pass
            _, ancillary, _, _ = sock.recvmsg(64, ANCILLARY_BYTES)
            clock.read_clocks()
            arrived = clock.arrival_ns(ancillary)
            assert before - MS <= arrived <= time.monotonic_ns()
            if arrived <= after + MS:
                return
            assert time.monotonic() < deadline, "the kernel never stamped"


def test_without_a_stamp_the_time_of_reading_stands_in() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        clock = ArrivalClock(sock)
        before = time.monotonic_ns()
        clock.read_clocks()
        assert before <= clock.arrival_ns([]) <= time.monotonic_ns()


def test_a_stamp_from_before_the_wall_clock_was_set_is_not_believed() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        clock = ArrivalClock(sock)
        clock._offset_ns -= 5_000_000_000  # as if it had been five seconds behind until now
        before = time.monotonic_ns()
        clock.read_clocks()
        assert clock.arrival_ns(stamp(time.time_ns() - 5_000_000_000)) >= before
        clock.read_clocks()
        wall_ns, now_ns = time.time_ns(), time.monotonic_ns()
        clock.read_clocks()
        assert abs(clock.arrival_ns(stamp(wall_ns)) - now_ns) < 1_000_000


def test_nothing_arrives_in_the_future() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        clock = ArrivalClock(sock)
        clock.read_clocks()
        assert clock.arrival_ns(stamp(time.time_ns() + 10**9)) <= time.monotonic_ns()
