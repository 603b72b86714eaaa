"""The echo services: every datagram and every byte goes back to where it came from, in order."""

from __future__ import annotations

import _socket

from bascule.lab.guest.loop import Loop
from bascule.lab.guest.sockets import Connection, Counters, bound, buffer

ECHO_PORT = 7
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_AT_ONCE = 32  # a datagram costs two calls then, not three; the other services have their turn after them
_RECEIVE_BYTES = 16 << 20  # some 7,000 datagrams, by the kernel's reckoning


class UdpEcho:
    """Sends each datagram back to its sender."""

    def __init__(self, loop: Loop, family: int, port: int, counters: Counters) -> None:
        self._counters = counters
        sock = bound(family, _socket.SOCK_DGRAM, port)
        # As a service of this rate has it: what comes while nothing runs, or runs slowly after a move, has to wait.
        sock.setsockopt(_socket.SOL_SOCKET, SO_RCVBUFFORCE, _RECEIVE_BYTES)
        self._receive, self._send = sock.recvfrom_into, sock.sendto
        loop.add(sock.fileno(), self.ready)

    def ready(self, _mask: int) -> None:
        """Answer what has come: one datagram, or some if they wait."""
        for _ in range(_AT_ONCE):
            try:
                size, sender = self._receive(buffer)
            except OSError:
                return  # there is none, or the client of an earlier one has gone
            try:
                self._send(buffer[:size], sender)
                self._counters.udp_datagrams += 1
            except OSError:
                self._counters.udp_unanswered += 1  # the client is gone, or a queue is full


class TcpEcho(Connection):
    """Sends every byte back."""

    def received(self, data: memoryview) -> None:
        """Echo."""
        self.send(data)
        self.counters.tcp_bytes += len(data)
