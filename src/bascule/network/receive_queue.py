"""Bounding what waits unread for a QEMU that receives a VM's state.

The kernel lets megabytes of a TCP stream wait for a reader that is slower than the network. What waits when the VM is
stopped has to be loaded before the last of its state, and is blackout: in the lab 20 ms and more of an idle VM's. The
socket is QEMU's, but root can have a descriptor of it (`foreign_tap`), and the bound belongs to the socket.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bascule.network.foreign_tap import copy_descriptor

UNREAD_BYTES = 1 << 20  # keeps 8 Gbit/s going at the longest round trip below, and 80 Gbit/s at a tenth of it
LONGEST_ROUND_TRIP_US = 1000  # beyond it the kernel's own sizing is left alone, or a long way would be slowed down

SO_RCVBUFFORCE = 33  # asm-generic/socket.h; the ordinary option stops at net.core.rmem_max, 208 KiB
TCPI_RTT_OFFSET = 68  # linux/tcp.h, struct tcp_info: tcpi_rtt, in microseconds


def bound_receive_queue(pid: int, port: int) -> int:
    """Bound the receive queues of the connections that process `pid` has accepted at `port`.

    Returns how many were bounded: none where the other side is far away, or where we may not look. It blocks for
    microseconds. Raises nothing: a move without it is only slower to switch over.
    """
    bounded = 0
    with suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            for connection in _accepted(pid, pidfd, port):
                if round_trip_us(connection) <= LONGEST_ROUND_TRIP_US:
                    connection.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, UNREAD_BYTES)
                    bounded += 1
        finally:
            os.close(pidfd)
    return bounded


def round_trip_us(connection: socket.socket) -> int:
    """The kernel's estimate of the round trip of a TCP connection, from its handshake on."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_RTT_OFFSET + 4)
    (found,) = struct.unpack_from("I", info, TCPI_RTT_OFFSET)
    return int(found)


def _accepted(pid: int, pidfd: int, port: int) -> Iterator[socket.socket]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile, or no connection
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=copy_descriptor(pidfd, int(entry.name))) as found:
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] == port:
                    found.getpeername()  # a listening socket has none
                    yield found
