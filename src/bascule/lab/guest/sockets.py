"""What the guest's services share: one buffer, bound sockets, TCP connections, and the counters.

The sockets are `_socket`'s own, without the class that the library builds around them, which would double the
start-up. A request costs one read and one write; a call more is half a microsecond natively but ten under emulation.
"""

from __future__ import annotations

import _socket
import select

from bascule.lab.guest.loop import Loop

TYPE_CHECKING = False  # as `typing` has it, which takes too long to import
if TYPE_CHECKING:
    from collections.abc import Callable

_BACKLOG = 128

# One for all: the loop has one thread, and nothing outlives an event but what a socket would not take.
buffer = memoryview(bytearray(65536))


class Counters:
    """What was answered so far."""

    __slots__ = ("http_requests", "tcp_bytes", "tcp_connections", "udp_datagrams", "udp_unanswered")

    def __init__(self) -> None:
        self.udp_datagrams = 0
        self.udp_unanswered = 0
        self.tcp_connections = 0
        self.tcp_bytes = 0
        self.http_requests = 0


def bound(family: int, kind: int, port: int) -> _socket.socket:
    """A non-blocking socket bound to `port` on every address of one family."""
    sock = _socket.socket(family, kind, 0)
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    if family == _socket.AF_INET6:
        sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
    sock.bind(("", port))
    if kind == _socket.SOCK_STREAM:
        sock.listen(_BACKLOG)
    sock.setblocking(False)
    return sock


class Connection:
    """One TCP connection. It reads only when nothing is left to send: a client that does not read is held back."""

    def __init__(self, loop: Loop, sock: _socket.socket, counters: Counters) -> None:
        self.counters = counters
        self._loop, self._sock = loop, sock
        self._receive, self._transmit = sock.recv_into, sock.send
        self._unsent = b""
        self._ending = False
        loop.add(sock.fileno(), self.ready)

    def ready(self, _mask: int) -> None:
        """Send what is left, or else read and answer."""
        try:
            if self._unsent:
                self._send_rest()
                return
            size = self._receive(buffer)
            if size:
                self.received(buffer[:size])
            else:
                self._close()
        except BlockingIOError:
            return
        except OSError:
            self._close()

    def received(self, data: memoryview) -> None:
        """Answer `data`, which is only valid during the call."""
        raise NotImplementedError

    def send(self, data: memoryview | bytes) -> None:
        """Send all of `data`, now or when the client takes it. Once in `received`, and with nothing unsent."""
        try:
            sent = self._transmit(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._unsent = bytes(data[sent:])
            self._loop.want(self._sock.fileno(), select.EPOLLOUT)

    def send_and_close(self, data: bytes) -> None:
        """Send all of `data`, then close."""
        self.send(data)
        if self._unsent:
            self._ending = True
        else:
            self._close()

    def _send_rest(self) -> None:
        self._unsent = self._unsent[self._transmit(self._unsent) :]
        if self._unsent:
            return
        if self._ending:
            self._close()
        else:
            self._loop.want(self._sock.fileno(), select.EPOLLIN)

    def _close(self) -> None:
        self._loop.remove(self._sock.fileno())
        self._sock.close()


class Listener:
    """Accepts connections and hands each to `serve`."""

    def __init__(self, loop: Loop, sock: _socket.socket, serve: Callable[[_socket.socket], Connection]) -> None:
        self._sock, self._serve = sock, serve
        loop.add(sock.fileno(), self.ready)

    def ready(self, _mask: int) -> None:
        """Accept one connection."""
        try:
            descriptor, _ = self._sock._accept()  # type: ignore[attr-defined]  # what `socket.accept` calls
        except OSError:
            return  # it was gone again before it was accepted
        sock = _socket.socket(fileno=descriptor)
        sock.setblocking(False)
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        self._serve(sock).counters.tcp_connections += 1
