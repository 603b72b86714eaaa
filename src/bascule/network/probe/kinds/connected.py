"""One TCP connection that is made once and held: what TCP echo and HTTP share.

When it breaks, that is logged and another one made: the report shall say how long users would have been without.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from abc import abstractmethod

from bascule.errors import Refused
from bascule.network.probe.arrival import ANCILLARY_BYTES, ArrivalClock
from bascule.network.probe.ending import Ending
from bascule.network.probe.kinds.stream import Stream
from bascule.network.probe.log import StreamLog
from bascule.network.probe.samples import PauseCause
from bascule.network.probe.target import Target

_READ_BYTES = 1 << 16
_NEXT_ATTEMPT_NS = 100_000_000  # a connection that broke is tried ten times a second
_IN_THE_MAKING = (errno.EINPROGRESS, errno.EALREADY)
_TOTAL_RETRANS = struct.Struct("=100xI")  # linux/tcp.h, struct tcp_info: tcpi_total_retrans


class ConnectedStream(Stream):
    """Holds a TCP connection. Subclasses say what goes over it."""

    def __init__(self, target: Target, log: StreamLog) -> None:
        self.log = log
        self._target = target
        self._socket: socket.socket | None = None
        self._is_connected = False
        self._clock: ArrivalClock | None = None
        self._next_attempt_ns = 0
        self._retransmitted = 0
        self._unsent = b""

    @property
    def readable(self) -> socket.socket | None:
        """The connection."""
        return self._socket if self._is_connected else None

    @property
    def writable(self) -> socket.socket | None:
        """The connection while it is being made."""
        return None if self._is_connected else self._socket

    def connect(self, ending: Ending, timeout_s: float) -> bool:
        """Make the connection; False when the end came first.

        Raises:
            Refused: nothing listens there, there is no way to it, or no answer within `timeout_s`.
        """
        attempt = f"cannot probe {self._target.text} by {self.log.info.kind.upper()}"
        try:
            sock = self._open()
            number = sock.connect_ex(self._target.address)
            deadline = time.monotonic() + timeout_s
            while number in _IN_THE_MAKING and (left := deadline - time.monotonic()) > 0 and not ending.is_here:
                if ending.wait([], [sock], left)[1]:
                    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError as error:
            raise Refused(f"{attempt}: {error.strerror}", "look at the address and the routes") from error
        if ending.is_here:
            return False
        if number:
            why = f"no answer within {timeout_s:g} s" if number in _IN_THE_MAKING else os.strerror(number)
            raise Refused(f"{attempt}: {why}", "look at the address, the port and whether the service runs")
        self._connected()
        return True

    def hindrance(self, now_ns: int) -> PauseCause | None:
        """No connection, or one that takes no more bytes."""
        if not self._is_connected:
            if self._socket is None and now_ns >= self._next_attempt_ns:
                self._reconnect(now_ns)
            return PauseCause.NO_CONNECTION
        if self._unsent:
            self._send(b"")
            if self._unsent:
                return PauseCause.FULL
        return None

    def receive(self) -> None:
        """Take in all that has arrived on the connection."""
        while self._is_connected and self._socket is not None and self._clock is not None:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._break(error.strerror or str(error))
                return
            if not data:
                self._break("the other side closed it")
                return
            self._clock.read_clocks()
            self.take(data, self._clock.arrival_ns(ancillary))
            if len(data) < _READ_BYTES:
                return

    def became_writable(self) -> None:
        """The connection in the making is made, or failed."""
        if self._socket is None:
            return
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._close_socket()
        else:
            self._connected()

    def look(self, now_ns: int) -> None:
        """Ask the kernel how many segments it had to send again."""
        if self._is_connected and self._socket is not None:
            data = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOTAL_RETRANS.size)
            total = _TOTAL_RETRANS.unpack(data)[0]
            if total != self._retransmitted:
                self.log.event(now_ns, "retransmitted", segments=total - self._retransmitted)
                self._retransmitted = total

    def close(self) -> None:
        """Close the connection."""
        self._close_socket()

    @abstractmethod
    def take(self, data: bytes, at_ns: int) -> None:
        """Bytes of the answers have arrived."""

    @abstractmethod
    def begin(self) -> None:
        """A connection has been made: forget the one before."""

    def _send(self, data: bytes) -> bool:
        """Send what is left over and then `data`; False, and nothing of `data` sent, when the kernel takes none."""
        if self._socket is None:
            return False
        whole = self._unsent + data
        try:
            taken = self._socket.send(whole)
        except BlockingIOError:
            return False
        except OSError as error:
            self._break(error.strerror or str(error))
            return False
        if taken < len(self._unsent):
            self._unsent = self._unsent[taken:]
            return False
        self._unsent = whole[taken:]
        return True

    def _break(self, reason: str) -> None:
        if self._is_connected:
            self.log.event(time.monotonic_ns(), "disconnected", reason=reason)
        self._close_socket()

    def _close_socket(self) -> None:
        self._is_connected = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _reconnect(self, now_ns: int) -> None:
        self._next_attempt_ns = now_ns + _NEXT_ATTEMPT_NS
        try:
            number = self._open().connect_ex(self._target.address)
        except OSError:
            number = -1
        if number == 0:
            self._connected()
        elif number not in _IN_THE_MAKING:
            self._close_socket()

    def _open(self) -> socket.socket:
        self._socket = socket.socket(self._target.family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clock = ArrivalClock(self._socket)
        return self._socket

    def _connected(self) -> None:
        self._is_connected = True
        self._unsent = b""
        self._retransmitted = 0
        self.begin()
        self.log.event(time.monotonic_ns(), "connected")
