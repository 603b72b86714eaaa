"""The echo services: every datagram and every byte goes back to where it came from, in order."""

from __future__ import annotations

import _socket

from bascule.lab.guest.loop import Loop
from bascule.lab.guest.sockets import Connection, Counters, bound, buffer

ECHO_PORT = 7


class UdpEcho:
    """Sends each datagram back to its sender."""

    def __init__(self, loop: Loop, family: int, port: int, counters: Counters) -> None:
        self._counters = counters
        sock = bound(family, _socket.SOCK_DGRAM, port)
        self._receive, self._send = sock.recvfrom_into, sock.sendto
        loop.add(sock.fileno(), self.ready)

    def ready(self, _mask: int) -> None:
        """Answer one datagram."""
        try:
            size, sender = self._receive(buffer)
            self._send(buffer[:size], sender)
        except OSError:
            return  # the client is gone, or a queue is full: datagrams may be lost
        self._counters.udp_datagrams += 1


class TcpEcho(Connection):
    """Sends every byte back."""

    def received(self, data: memoryview) -> None:
        """Echo."""
        self.send(data)
        self.counters.tcp_bytes += len(data)
