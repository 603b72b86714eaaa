"""Numbered records told to the network, so that a guest that ran twice at once is heard.

They look as those on the disk do (`sequence_record`), and make a chain of their own: two copies of a guest send records
with the same number and different content. They are broadcast, so that they reach whoever listens wherever the guest
is, and nobody has to be asked. The sender is a process of its own, as the appender is: neither waits for the other.
"""

from __future__ import annotations

import _socket
import os
import time

from bascule.lab.guest.sequence_record import Record

PORT = 7707
_DEVICE = b"eth0"
_TO = ("255.255.255.255", PORT)
_PERIOD_S = 0.02


class Sender:
    """Continues one chain of records."""

    def __init__(self, boot_id: bytes) -> None:
        self._boot_id = boot_id
        self._number = -1
        self._previous = 0

    def next(self) -> bytes:
        """The next record, as it is sent. A record that is lost leaves a gap in the numbers."""
        self._number += 1
        record = Record(
            boot_id=self._boot_id,
            number=self._number,
            uptime_ns=time.monotonic_ns(),
            conflicts=0,
            nonce=os.urandom(8),
            previous=self._previous,
        )
        self._previous = record.check
        return record.pack()


def start(boot_id: bytes) -> None:
    """Start the sender's process."""
    if os.fork() == 0:
        try:
            _run(Sender(boot_id))
        except OSError as error:
            print(f"bascule-guest: the sequence on the network ends: {error}", flush=True)
        os._exit(1)


def _run(sender: Sender) -> None:
    """Send for ever, fifty a second."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM, 0)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_BROADCAST, 1)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, _DEVICE)
    while os.getppid() != 1:  # the workload is gone
        data = sender.next()
        try:
            sock.sendto(data, _TO)
        except OSError as error:
            if error.errno not in _PASSING:
                raise
        time.sleep(_PERIOD_S)


_PASSING = (11, 100, 101, 105)  # EAGAIN, ENETDOWN, ENETUNREACH, ENOBUFS: the link is not up yet, or a queue is full
