"""TCP connect: a new connection each time, from SYN to SYN/ACK, which the service's kernel sends by itself.

A refused port is an answer: the RST comes from the machine that was asked, and its round trip says as much. Its time is
that of reading; of a connection that was made, the kernel's own measurement is taken (tcpi_rtt), which begins and ends
in the kernel. Each connection is given up at once by an RST, so that no port of ours stays taken for a minute; the
service sees connections that come and go.

The kernel sends a SYN again that has no answer after a second. What is answered only then counts as lost: a frame was,
and a client would have waited for that second.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import struct
import time

from bascule.errors import Refused
from bascule.network.probe.ending import Ending
from bascule.network.probe.kinds.stream import Stream
from bascule.network.probe.log import StreamLog
from bascule.network.probe.samples import PauseCause
from bascule.network.probe.target import Target

_GIVE_UP_NS = 1_000_000_000  # the answer time-out
_MOST_OPEN_SHARE = 0.9  # of the descriptors that a process may have
_RTT_US = struct.Struct("=68xI28xI")  # linux/tcp.h, struct tcp_info: tcpi_rtt, tcpi_total_retrans
_RESET_AT_CLOSE = struct.pack("=ii", 1, 0)  # struct linger: on, no time
_IN_THE_MAKING = (errno.EINPROGRESS, errno.EALREADY)


class ConnectEach(Stream):
    """Makes a connection for each probe. No other connection may be held in the same process: see `Ending.wait`."""

    def __init__(self, target: Target, log: StreamLog) -> None:
        self.log = log
        self._target = target
        self._most_open = int(_MOST_OPEN_SHARE * _most_descriptors())
        self._epoll = select.epoll()
        self._open: dict[int, tuple[int, int, socket.socket]] = {}  # by descriptor: number, when, connection

    @property
    def readable(self) -> select.epoll:
        """Ready when a connection is made or refused."""
        return self._epoll

    def connect(self, ending: Ending, timeout_s: float) -> bool:
        """Try once; False when there is no answer, which a probe may well want to look at.

        Raises:
            Refused: there is no way to it.
        """
        attempt = f"cannot probe {self._target.text} by TCP connect"
        sock = socket.socket(self._target.family, socket.SOCK_STREAM)
        with sock:
            sock.setblocking(False)
            number = sock.connect_ex(self._target.address)
            deadline = time.monotonic() + timeout_s
            while number in _IN_THE_MAKING and (left := deadline - time.monotonic()) > 0 and not ending.is_here:
                if ending.wait([], [sock], left)[1]:
                    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        if number in (errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.EINVAL, errno.EADDRNOTAVAIL):
            raise Refused(f"{attempt}: {os.strerror(number)}", "look at the address and the routes (ip route)")
        return number in (0, errno.ECONNREFUSED)

    def hindrance(self, now_ns: int) -> PauseCause | None:  # noqa: ARG002 - it does not depend on the time
        """This process may not have more connections open."""
        return PauseCause.CROWDED if len(self._open) >= self._most_open else None

    def ask(self, sequence: int) -> None:
        """Begin a connection. One that the own kernel refuses counts as sent: a client would have tried as well."""
        sock = socket.socket(self._target.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        at_ns = time.monotonic_ns()
        self.log.sent(at_ns)
        number = sock.connect_ex(self._target.address)
        if number in _IN_THE_MAKING:
            self._open[sock.fileno()] = sequence, at_ns, sock
            self._epoll.register(sock, select.EPOLLOUT)
            return
        with sock:
            if number in (0, errno.ECONNREFUSED):
                self._answered(sequence, at_ns, sock, number)
            else:
                self.log.refused(at_ns, sequence, number)

    def receive(self) -> None:
        """Take in all connections that were made or refused."""
        for descriptor, _ in self._epoll.poll(0):
            sequence, at_ns, sock = self._open.pop(descriptor)
            with sock:
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if number in (0, errno.ECONNREFUSED):
                    self._answered(sequence, at_ns, sock, number)
                else:  # from the network: an ICMP error, or no answer to ARP
                    self.log.count(time.monotonic_ns(), "unreachable", errno=number)

    def look(self, now_ns: int) -> None:
        """Give up connections that take too long."""
        while self._open:
            descriptor = next(iter(self._open))  # the oldest
            if now_ns - self._open[descriptor][1] < _GIVE_UP_NS:
                return
            self._open.pop(descriptor)[2].close()

    def close(self) -> None:
        """Close all connections."""
        for _, _, sock in self._open.values():
            sock.close()
        self._open.clear()
        self._epoll.close()

    def _answered(self, sequence: int, at_ns: int, sock: socket.socket, number: int) -> None:
        now_ns = time.monotonic_ns()
        rtt_us, retransmitted = _RTT_US.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT_US.size))
        if retransmitted:
            self.log.count(now_ns, "asked-again")
        elif number:
            self.log.count(now_ns, "reset")
            self.log.answered(sequence, now_ns)
        else:
            self.log.answered(sequence, min(now_ns, at_ns + 1000 * rtt_us) if rtt_us else now_ns)


def _most_descriptors() -> int:
    """Raise this process's limit as far as it may, and return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
