"""Bounding the receive queue of a process's connections, seen on a child process and on ourselves."""

import os
import socket

import pytest

from bascule.network.receive_queue import UNREAD_BYTES, bound_receive_queue, round_trip_us

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may have another process's descriptors")


def test_what_waits_unread_is_bounded_and_other_sockets_are_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        port = listener.getsockname()[1]
        with (
            socket.create_connection(("127.0.0.1", port)) as sender,
            socket.create_connection(("127.0.0.1", other.getsockname()[1])),
        ):
            here, _ = listener.accept()
            elsewhere, _ = other.accept()
            with here, elsewhere:
                before = elsewhere.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
                assert round_trip_us(here) < 1000
                assert bound_receive_queue(os.getpid(), port) == 1
                assert here.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * UNREAD_BYTES  # as the kernel counts
                assert elsewhere.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == before
                sender.sendall(b"still open")
                assert here.recv(10) == b"still open"


def test_a_process_that_has_ended_has_nothing_to_bound() -> None:
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    assert bound_receive_queue(child, 1) == 0
