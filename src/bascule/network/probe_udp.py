"""UDP echo: a numbered datagram out, the same one back. It alone sees loss, duplicates and reordering."""

from __future__ import annotations

import errno
import secrets
import socket
import struct
import time
from contextlib import suppress

from bascule.errors import Refused
from bascule.network.probe_arrival import ANCILLARY_BYTES, ArrivalClock
from bascule.network.probe_ending import Ending
from bascule.network.probe_log import StreamLog
from bascule.network.probe_samples import PauseCause
from bascule.network.probe_stream import Stream
from bascule.network.probe_target import Target

_DATAGRAM = struct.Struct(">QI")  # which probe session, which number
_GREETING = 0xFFFFFFFF  # the number of the datagrams sent before the first probe
_GREETING_EVERY_S = 0.1
_RECEIVE_BUFFER_BYTES = 16 << 20  # a pause of ours must not lose answers: small datagrams take 768 bytes each
# asm-generic/socket.h
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO_DROPS = 8


class UdpEcho(Stream):
    """Asks a UDP echo service."""

    def __init__(self, target: Target, log: StreamLog) -> None:
        self.log = log
        self._target = target
        self._session = secrets.randbits(64)
        self._socket = socket.socket(target.family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        _widen(self._socket)
        self._clock = ArrivalClock(self._socket)
        self._drops = 0

    @property
    def readable(self) -> socket.socket:
        """The socket."""
        return self._socket

    def connect(self, ending: Ending, timeout_s: float) -> bool:
        """Greet the target until it answers; False when it is silent, which a probe may well want to look at.

        Raises:
            Refused: nothing listens there, or there is no way to it.
        """
        attempt = f"cannot probe {self._target.text} by UDP"
        try:
            self._socket.connect(self._target.address)
        except OSError as error:
            raise Refused(f"{attempt}: {error.strerror}", "look at the address and the routes") from error
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0 and not ending.is_here:
            try:
                self._socket.send(_DATAGRAM.pack(self._session, _GREETING))
                ending.wait([self._socket], [], min(left, _GREETING_EVERY_S))
                if self._socket.recv(64) == _DATAGRAM.pack(self._session, _GREETING):
                    return True
            except BlockingIOError:
                continue
            except ConnectionRefusedError as error:
                raise Refused(
                    f"{attempt}: nothing listens on that port", "start an echo service there, or name its port"
                ) from error
            except OSError as error:
                raise Refused(f"{attempt}: {error.strerror}", "look at the address and the routes") from error
        return False

    def hindrance(self, now_ns: int) -> PauseCause | None:  # noqa: ARG002 - UDP has no state that could hinder
        """Nothing ever hinders UDP."""
        return None

    def ask(self, sequence: int) -> None:
        """Send the datagram. One that the kernel refuses counts as sent: a client would have tried as well."""
        datagram = _DATAGRAM.pack(self._session, sequence)
        at_ns = time.monotonic_ns()
        self.log.sent(at_ns)
        try:
            self._socket.send(datagram)
        except OSError as error:
            self._note_network_error(error, at_ns)
            try:  # the error may have been an older datagram's, told by ICMP meanwhile: this one was not sent
                self._socket.send(datagram)
            except OSError as again:
                self.log.refused(at_ns, sequence, again.errno or 0)

    def receive(self) -> None:
        """Take in all answers that wait."""
        arrived = []
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(64, ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                self._note_network_error(error, time.monotonic_ns())
                continue
            arrived.append((data, ancillary))
        if not arrived:
            return
        self._clock.read_clocks()
        for data, ancillary in arrived:
            at_ns = self._clock.arrival_ns(ancillary)
            session, sequence = _DATAGRAM.unpack(data) if len(data) == _DATAGRAM.size else (0, 0)
            if session == self._session and sequence < self.log.next_sequence:
                self.log.answered(sequence, at_ns)
            elif session != self._session or sequence != _GREETING:
                self.log.count(at_ns, "foreign")

    def look(self, now_ns: int) -> None:
        """Ask the kernel how many answers it dropped because our buffer was full."""
        with suppress(OSError):  # a kernel before 4.12 does not say
            data = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
            drops = struct.unpack_from("=I", data, 4 * _MEMINFO_DROPS)[0]
            if drops != self._drops:
                self.log.event(now_ns, "own-drops", count=(drops - self._drops) & 0xFFFFFFFF)
                self._drops = drops

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _note_network_error(self, error: OSError, at_ns: int) -> None:
        if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH):  # from the network, by ICMP
            self.log.count(at_ns, "unreachable", errno=error.errno)


def _widen(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except OSError:  # not root: as much as rmem_max allows
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
