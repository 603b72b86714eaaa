"""Echoes of numbered messages over a socket without connection: what UDP and ICMP have in common.

They alone see loss, duplicates and reordering, because each answer carries the number of its question.
"""

from __future__ import annotations

import errno
import secrets
import socket
import struct
import time
from abc import abstractmethod
from contextlib import suppress

from bascule.errors import Refused
from bascule.network.probe.arrival import ANCILLARY_BYTES, ArrivalClock
from bascule.network.probe.ending import Ending
from bascule.network.probe.kinds.stream import Stream
from bascule.network.probe.log import StreamLog
from bascule.network.probe.samples import PauseCause
from bascule.network.probe.target import Target

PAYLOAD = struct.Struct(">QI")  # which probe session, which number
GREETING = 0xFFFFFFFF  # the number of the messages sent before the first probe
_GREETING_EVERY_S = 0.1
_READ_BYTES = 256
_RECEIVE_BUFFER_BYTES = 16 << 20  # a pause of ours must not lose answers: small datagrams take 768 bytes each
_FROM_THE_NETWORK = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES)  # told by ICMP
# asm-generic/socket.h
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO_DROPS = 8


class NumberedEcho(Stream):
    """Asks by messages that carry `PAYLOAD`. Subclasses say what is around it."""

    def __init__(self, target: Target, log: StreamLog) -> None:
        self.log = log
        self._target = target
        self._session = secrets.randbits(64)
        self._socket = self._open(target)
        self._socket.setblocking(False)
        _widen(self._socket)
        self._clock = ArrivalClock(self._socket)
        self._drops = 0

    @property
    def readable(self) -> socket.socket:
        """The socket."""
        return self._socket

    @abstractmethod
    def _open(self, target: Target) -> socket.socket:
        """Open the socket. Raises `Refused`."""

    @abstractmethod
    def _message(self, number: int, payload: bytes) -> bytes:
        """The whole message number `number`."""

    @abstractmethod
    def _payload(self, message: bytes) -> bytes:
        """What an answer carries; empty when it is no answer."""

    def connect(self, ending: Ending, timeout_s: float) -> bool:
        """Greet the target until it answers; False when it is silent, which a probe may well want to look at.

        Raises:
            Refused: nothing listens there, or there is no way to it.
        """
        attempt = f"cannot probe {self._target.text} by {self.log.info.kind.upper()}"
        try:
            self._socket.connect(self._target.address)
        except OSError as error:
            raise Refused(f"{attempt}: {error.strerror}", "look at the address and the routes (ip route)") from error
        payload = PAYLOAD.pack(self._session, GREETING)
        greeting = self._message(GREETING, payload)
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0 and not ending.is_here:
            try:
                self._socket.send(greeting)
                ending.wait([self._socket], [], min(left, _GREETING_EVERY_S))
                if self._payload(self._socket.recv(_READ_BYTES)) == payload:
                    return True
            except BlockingIOError:
                continue
            except ConnectionRefusedError as error:
                raise Refused(
                    f"{attempt}: nothing listens on that port",
                    "start an echo service there, or name its port; ICMP echo needs none",
                ) from error
            except OSError as error:
                if error.errno not in _FROM_THE_NETWORK:
                    raise Refused(
                        f"{attempt}: {error.strerror}", "look at the address and the routes (ip route)"
                    ) from error
                ending.wait([], [], min(left, _GREETING_EVERY_S))  # nobody has that address now, for instance
        return False

    def hindrance(self, now_ns: int) -> PauseCause | None:  # noqa: ARG002 - there is no state that could hinder
        """Nothing ever hinders it."""
        return None

    def ask(self, sequence: int) -> None:
        """Send the message. One that the kernel refuses counts as sent: a client would have tried as well."""
        message = self._message(sequence, PAYLOAD.pack(self._session, sequence))
        at_ns = time.monotonic_ns()
        self.log.sent(at_ns)
        try:
            self._socket.send(message)
        except OSError as error:
            self._note_network_error(error, at_ns)
            try:  # the error may have been an older message's, told by ICMP meanwhile: this one was not sent
                self._socket.send(message)
            except OSError as again:
                self.log.refused(at_ns, sequence, again.errno or 0)

    def receive(self) -> None:
        """Take in all answers that wait."""
        arrived = []
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, ANCILLARY_BYTES)
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
            payload = self._payload(data)
            session, sequence = PAYLOAD.unpack(payload) if len(payload) == PAYLOAD.size else (0, 0)
            if session == self._session and sequence < self.log.next_sequence:
                self.log.answered(sequence, at_ns)
            elif session != self._session or sequence != GREETING:
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
        if error.errno in _FROM_THE_NETWORK:
            self.log.count(at_ns, "unreachable", errno=error.errno)


def _widen(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except OSError:  # not root: as much as rmem_max allows
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
