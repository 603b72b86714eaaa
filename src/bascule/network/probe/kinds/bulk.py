"""Bulk TCP through an echo service: one connection as full as it goes, every byte verified when it returns.

A *piece* is what the kernel took in one call; it counts as a probe that is answered when its last byte is back. Every
reading is recorded with its size, so that throughput and stall are known to the byte and not to the piece. The stream
sends whenever it can, by no clock: the pacer's moments only tell whether this process was scheduled in time, since
bytes that it took late were not late on the wire.
"""

from __future__ import annotations

import random
import socket
import time
from collections import deque

from bascule.network.probe.kinds.connected import ConnectedStream
from bascule.network.probe.log import StreamLog
from bascule.network.probe.target import Target

PIECE_BYTES = 64 * 1024
BUFFER_BYTES = 256 * 1024  # of the socket, each way: more would only wait in queues, and hide the stream's own pace
_PERIOD_BYTES = (1 << 20) - 3  # the stream repeats itself after a length that no page, window or piece divides
_PIECES_AT_ONCE = 8  # then it is looked again whether something has arrived


class BulkTcp(ConnectedStream):
    """Sends all that the kernel takes and compares what returns with what was sent at that place of the stream."""

    def __init__(self, target: Target, log: StreamLog) -> None:
        super().__init__(target, log)
        period = random.Random(3).randbytes(_PERIOD_BYTES)  # noqa: S311 - not for secrets: to be known to both ends
        self._twice = memoryview(period + period)
        self._sent = 0  # of this connection, in bytes
        self._received = 0
        self._ends: deque[tuple[int, int]] = deque()  # where the pieces under way end, and their numbers

    @property
    def writable(self) -> socket.socket | None:
        """The connection, until nothing more shall be sent."""
        return self._socket if not (self._is_connected and self.log.is_stopped) else None

    def begin(self) -> None:
        """A new stream, from its first byte on."""
        self._sent = self._received = 0
        self._ends.clear()

    def tick(self, now_ns: int) -> None:
        """Look whether this process was late, and whether a broken connection can be made again."""
        due_ns = self.pacer.due_ns
        if self.pacer.advance(now_ns):
            self.log.missed(due_ns, now_ns)
        cause = self.hindrance(now_ns)
        if cause is None:
            self.ask(self.log.next_sequence)
        else:
            self.log.hold(due_ns, cause)

    def ask(self, sequence: int) -> None:
        """Send pieces from number `sequence` on, as long as the kernel takes them."""
        for number in range(sequence, sequence + _PIECES_AT_ONCE):
            start = self._sent % _PERIOD_BYTES
            at_ns = time.monotonic_ns()
            if self._socket is None:
                return
            try:
                self._sent += self._socket.send(self._twice[start : start + PIECE_BYTES])
            except BlockingIOError:
                return
            except OSError as error:
                self._break(error.strerror or str(error))
                return
            self._ends.append((self._sent, number))
            self.log.sent(at_ns)

    def became_writable(self) -> None:
        """There is room for more, or the connection in the making is made."""
        if self._is_connected:
            self.ask(self.log.next_sequence)
        else:
            super().became_writable()

    def take(self, data: bytes, at_ns: int) -> None:
        """Verify what came back."""
        start = self._received % _PERIOD_BYTES
        if self._twice[start : start + len(data)] != data or self._received + len(data) > self._sent:
            self.log.event(at_ns, "corrupt", between=[self._received, self._received + len(data)])
            self._break("wrong bytes came back")
            return
        self._received += len(data)
        self.log.arrived(len(data), at_ns)
        while self._ends and self._ends[0][0] <= self._received:
            self.log.answered(self._ends.popleft()[1], at_ns)

    def _open(self) -> socket.socket:
        sock = super()._open()
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES // 2)  # the kernel doubles it for its own needs
        return sock
