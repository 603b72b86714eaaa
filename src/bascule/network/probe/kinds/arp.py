"""ARP: who has this address? Asked of one IPv4 neighbour, answered by its kernel, below every firewall.

The first few questions go to all (broadcast): so it is found who has the address, and whether two machines claim it.
The others go to the MAC that answered first, as a client's frames would, and disturb nobody else.

ARP's answers do not say which question they answer. So there is one question at a time, and the next waits for the
answer. One that has none after a while is given up and the next is asked; an answer that comes then belongs to the
newest question that has none. That is right for the counts and for the silences; where several were open at once, the
round trips of those few may be swapped among them. A second answer to one question counts as duplicated; one from
another MAC than the first is told apart, and counts as no answer. Reordering cannot be seen.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence

from bascule.errors import Refused
from bascule.network.probe.arrival import ANCILLARY_BYTES, ArrivalClock
from bascule.network.probe.ending import Ending
from bascule.network.probe.kinds.stream import Stream
from bascule.network.probe.log import StreamLog
from bascule.network.probe.neighbour import way_to
from bascule.network.probe.packet_filter import attach
from bascule.network.probe.samples import PauseCause
from bascule.network.probe.target import Target

_ETHERTYPE = 0x0806
_MESSAGE = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826, for Ethernet and IPv4
_ETHERNET, _IPV4, _REQUEST, _REPLY = 1, 0x0800, 1, 2
_BROADCAST = b"\xff" * 6
_READ_BYTES = 128
_FIRST_EVERY_S = 0.2
_GIVE_UP_NS = 20_000_000  # at least: an outage in which questions are lost may look longer by as much
_GIVE_UP_AFTER_TRIPS = 4
_SAMPLE_QUESTIONS = 3
_OTHERS_WITHIN_S = 0.1  # of the last question to all: so long another claimant may take
_OPEN_FOR_NS = 1_000_000_000  # the answer time-out


class ArpRequests(Stream):
    """Asks one IPv4 neighbour for its MAC."""

    def __init__(self, target: Target, log: StreamLog) -> None:
        self.log = log
        self._attempt = f"cannot probe {target.text} by ARP"
        if target.family != socket.AF_INET:
            raise Refused(f"{self._attempt}: that is an IPv6 address, and ARP is for IPv4", "ask by ICMP")
        address = target.address[0]
        self._way = way = way_to(address, self._attempt)
        self._question = _MESSAGE.pack(_ETHERNET, _IPV4, 6, 4, _REQUEST, way.mac, way.source, bytes(6), way.target)
        self._mac = _BROADCAST
        self._give_up_ns = _GIVE_UP_NS
        self._unanswered: list[tuple[int, int]] = []  # (number, when it was asked)
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        except PermissionError as error:
            raise Refused(
                f"{self._attempt}: only root may speak ARP", "run it as root; or ask by ICMP, UDP or TCP"
            ) from error
        wanted = int.from_bytes(way.target)
        attach(self._socket, [(6, 2, _REPLY), (14, 4, wanted), (24, 4, int.from_bytes(way.source))])
        self._socket.setblocking(False)
        self._socket.bind((way.interface, _ETHERTYPE))
        self._clock = ArrivalClock(self._socket)

    @property
    def readable(self) -> socket.socket:
        """The socket."""
        return self._socket

    def connect(self, ending: Ending, timeout_s: float) -> bool:
        """Find the neighbour's MAC, and how long an answer takes; False when the end came first.

        Raises:
            Refused: nobody answers for that address, or the link is down.
        """
        deadline = time.monotonic() + timeout_s
        longest_ns = 0
        for _ in range(_SAMPLE_QUESTIONS):
            trip_ns = self._ask_first(ending, deadline)
            if ending.is_here:
                return False
            if trip_ns is None:
                if self._mac != _BROADCAST:
                    break  # it did answer the first one
                raise Refused(
                    f"{self._attempt}: nobody on {self._way.interface} has that address (no answer within"
                    f" {timeout_s:g} s)",
                    "look at the address, and whether the VM runs; a probe can only begin while it does",
                )
            longest_ns = max(longest_ns, trip_ns)
        self._hear_others(ending)
        self._give_up_ns = max(_GIVE_UP_NS, _GIVE_UP_AFTER_TRIPS * longest_ns)
        return True

    def _ask_first(self, ending: Ending, deadline: float) -> int | None:
        """Ask until there is an answer; return how long it took, or None when there is none in time."""
        while (left := deadline - time.monotonic()) > 0 and not ending.is_here:
            asked_ns = time.monotonic_ns()
            try:
                self._send(_BROADCAST)
            except OSError as error:
                raise Refused(
                    f"{self._attempt}: {self._way.interface}: {error.strerror}", "is the link up? see: ip link"
                ) from error
            ending.wait([self._socket], [], min(left, _FIRST_EVERY_S))
            if answers := self._read():
                if self._mac == _BROADCAST:
                    self._mac = answers[0][1]
                self._note_others(answers)
                return max(0, answers[0][0] - asked_ns)
        return None

    def _hear_others(self, ending: Ending) -> None:
        """Take in what else answers the questions to all, so that none is taken for an answer to a later one."""
        deadline = time.monotonic() + _OTHERS_WITHIN_S
        while (left := deadline - time.monotonic()) > 0 and not ending.is_here:
            ending.wait([self._socket], [], left)
            self._note_others(self._read())

    def hindrance(self, now_ns: int) -> PauseCause | None:
        """One question at a time: the last one was asked a moment ago and has no answer yet."""
        if self._unanswered and now_ns - self._unanswered[-1][1] < self._give_up_ns:
            return PauseCause.WAITING
        return None

    def ask(self, sequence: int) -> None:
        """Ask. A question that the kernel refuses counts as sent: a client would have tried as well."""
        at_ns = time.monotonic_ns()
        self.log.sent(at_ns)
        self._unanswered = [one for one in self._unanswered if at_ns - one[1] < _OPEN_FOR_NS]
        self._unanswered.append((sequence, at_ns))
        try:
            self._send(self._mac)
        except OSError as error:
            self.log.refused(at_ns, sequence, error.errno or 0)

    def receive(self) -> None:
        """Take in all answers that wait."""
        for at_ns in self._note_others(self._read()):
            if self._unanswered:
                self.log.answered(self._unanswered.pop()[0], at_ns)
            elif self.log.next_sequence:
                self.log.answered(self.log.next_sequence - 1, at_ns)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self, mac: bytes) -> None:
        self._socket.sendto(self._question, (self._way.interface, _ETHERTYPE, 0, 0, mac))

    def _note_others(self, answers: Sequence[tuple[int, bytes]]) -> list[int]:
        """Log the answers from other machines, and return when the neighbour's own came."""
        for at_ns, mac in answers:
            if mac != self._mac:
                self.log.count(at_ns, "other-mac", mac=mac.hex(":"))
        return [at_ns for at_ns, mac in answers if mac == self._mac]

    def _read(self) -> list[tuple[int, bytes]]:
        """Return when each waiting answer came, and from which MAC. A link's error is left to the next question."""
        arrived = []
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError:
                continue  # the link went down: told once
            arrived.append((data, ancillary))
        if arrived:
            self._clock.read_clocks()
        return [
            (self._clock.arrival_ns(ancillary), data[8:14]) for data, ancillary in arrived if len(data) >= _MESSAGE.size
        ]
