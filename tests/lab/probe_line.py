"""Namespaces joined by real links, echo services in them, and a relay that drops, copies and holds back frames by rule.

What is done to a probe's frames is known exactly, so that what it counts can be held against it.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE_S = 40.0
PORT = 7
SERVER = "192.0.2.2"
CLIENT = "192.0.2.1"
SERVER_V6 = "fd00:192::2"
CLIENT_V6 = "fd00:192::1"
CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_VNET_HDR = 15  # offload information goes along: checksums are not made yet
PACKET_OUTGOING = 4
SO_RCVBUFFORCE = 33
VNET_HEADER_BYTES = 10
GREETING = 0xFFFFFFFF  # the number of what the probe sends before it begins
_number = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


class Inside:
    """A namespace, and a thread in it that makes sockets there."""

    def __init__(self, name: str) -> None:
        self.name = name
        ip("netns", "add", name)
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)
        ip("-n", name, "link", "set", "lo", "up")

    def _enter(self) -> None:
        namespace = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            assert _libc.setns(namespace, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        finally:
            os.close(namespace)

    def socket(self, *sort: int) -> socket.socket:
        return self._thread.submit(socket.socket, *sort).result()

    def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call in this namespace."""
        return self._thread.submit(call, *arguments).result()

    def datagrams_received(self) -> int:
        """How many UDP datagrams programs in here have read, as the kernel counts."""
        table = self._thread.submit(Path("/proc/thread-self/net/snmp").read_text).result()
        names, values = (line.split() for line in table.splitlines() if line.startswith("Udp:"))
        return int(values[names.index("InDatagrams")])

    def link(self, name: str, state: str) -> None:
        ip("-n", self.name, "link", "set", "dev", name, state)

    def remove(self) -> None:
        self._thread.shutdown()
        ip("netns", "del", self.name)


def number_of(datagram: bytes) -> int:
    return int(struct.unpack(">QI", datagram)[1])


@dataclass
class Rules:
    """What to do to frames with these numbers. A held one goes out just after the one that it waits for."""

    drop: frozenset[int] = frozenset()
    copies: dict[int, int] = field(default_factory=dict)
    hold_until: dict[int, int] = field(default_factory=dict)
    _held: dict[int, list[bytes]] = field(default_factory=dict)

    def apply(self, number: int, data: bytes) -> list[bytes]:
        """What goes out when `data`, which has this number, comes in."""
        if number in self.drop:
            return []
        if number in self.hold_until:
            self._held.setdefault(self.hold_until[number], []).append(data)
            return []
        return [data] * (1 + self.copies.get(number, 0)) + self._held.pop(number, [])


@dataclass
class Service:
    """UDP and TCP echo in a namespace, and what of the probe's datagrams it answered.

    It misbehaves by `rules`: drops datagrams, answers several times, or holds an answer back behind another one.
    """

    inside: Inside
    address: str = SERVER
    rules: Rules = field(default_factory=Rules)
    answered: list[int] = field(default_factory=list)

    def __enter__(self) -> Service:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        self._udp = self.inside.socket(family, socket.SOCK_DGRAM)
        self._udp.bind((self.address, PORT))
        self._listener = self.inside.socket(family, socket.SOCK_STREAM)
        self._listener.bind((self.address, PORT))
        self._listener.listen()
        self._connections: list[socket.socket] = []
        self._ended = False
        self._threads = [threading.Thread(target=work) for work in (self._echo_udp, self._accept)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        for sock in (self._udp, self._listener, *self._connections):
            with suppress(OSError):  # not connected, for a datagram socket: it wakes the reader all the same
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in (self._udp, self._listener, *self._connections):
            sock.close()

    def _echo_udp(self) -> None:
        while True:
            data, sender = self._udp.recvfrom(2048)
            if self._ended:
                return
            for answer in self.rules.apply(number_of(data), data):
                with suppress(OSError):  # the link is down: not answered
                    self._udp.sendto(answer, sender)
                    self.answered.append(number_of(answer))

    def _accept(self) -> None:
        while not self._ended:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
            self._threads.append(threading.Thread(target=self._echo_tcp, args=(connection,)))
            self._threads[-1].start()

    @staticmethod
    def _echo_tcp(connection: socket.socket) -> None:
        with suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)


class Numbers:
    """The number of a probe's UDP datagram or ICMP message; -1 for other frames. Subclasses number what bears none."""

    def of(self, frame: bytes, is_request: bool) -> int:
        kind, layer_4 = protocol_of(frame)
        if kind == socket.IPPROTO_UDP:
            port_at = layer_4 + 2 if is_request else layer_4
            is_ours = frame[port_at : port_at + 2] == PORT.to_bytes(2, "big")
        elif kind in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6):
            is_ours = frame[layer_4] in ((8, 128) if is_request else (0, 129))
        else:
            return self.other(frame, is_request)
        payload = frame[layer_4 + 8 : layer_4 + 20]
        return number_of(payload) if is_ours and len(payload) == 12 else -1

    def other(self, frame: bytes, is_request: bool) -> int:  # noqa: ARG002 - subclasses look at them
        return -1


class ArpNumbers(Numbers):
    """ARP requests in the order in which they pass, after the three by which the probe begins; and answers."""

    def __init__(self) -> None:
        self._passed = {True: 0, False: 0}

    def other(self, frame: bytes, is_request: bool) -> int:
        if frame[12:14] != b"\x08\x06" or int.from_bytes(frame[20:22], "big") != (1 if is_request else 2):
            return -1
        self._passed[is_request] += 1
        return self._passed[is_request] - 1 - 3


class SynNumbers(Numbers):
    """Connections in the order of their first SYN, after the one by which the probe looks for its target.

    A port may be taken again; its first sequence number, which the answer acknowledges, tells them apart.
    """

    def __init__(self) -> None:
        self._connections: dict[tuple[bytes, int], int] = {}

    def other(self, frame: bytes, is_request: bool) -> int:
        kind, layer_4 = protocol_of(frame)
        if kind != socket.IPPROTO_TCP:
            return -1
        source, destination, sequence, acknowledged = struct.unpack_from(">2s2sII", frame, layer_4)
        flags = frame[layer_4 + 13]
        if is_request and flags == 0x02:
            return self._connections.setdefault((source, sequence), len(self._connections) - 1)
        if not is_request and flags in (0x12, 0x14):
            return self._connections.get((destination, (acknowledged - 1) & 0xFFFFFFFF), -1)
        return -1


def protocol_of(frame: bytes) -> tuple[int, int]:
    """The protocol above IP, and where it begins; -1 for other frames."""
    if frame[12:14] == b"\x08\x00":
        return frame[23], 34
    return (frame[20], 54) if frame[12:14] == b"\x86\xdd" else (-1, 0)


class Relay:
    """Forwards frames between two links of a namespace, each direction in a thread; the probe's datagrams by rule."""

    def __init__(
        self,
        inside: Inside,
        links: tuple[str, str],
        requests: Rules,
        answers: Rules,
        numbers: Numbers | None = None,
    ) -> None:
        self._sockets = [self._open(inside, link) for link in links]
        self._ended = False
        self._numbers = numbers or Numbers()
        near, far = self._sockets
        self._threads = [
            threading.Thread(target=self._forward, args=(near, far, True, requests)),
            threading.Thread(target=self._forward, args=(far, near, False, answers)),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @staticmethod
    def _open(inside: Inside, link: str) -> socket.socket:
        sock = inside.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sock.bind((link, ETH_P_ALL))
        sock.settimeout(0.1)
        return sock

    def end(self) -> None:
        self._ended = True
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _forward(self, here: socket.socket, there: socket.socket, is_request: bool, rules: Rules) -> None:
        while not self._ended:
            try:
                data, address = here.recvfrom(1 << 17)
            except TimeoutError:
                continue
            if address[2] == PACKET_OUTGOING:
                continue
            for one in rules.apply(self._numbers.of(data[VNET_HEADER_BYTES:], is_request), data):
                there.send(one)


@dataclass
class Line:
    """The probe's namespace, the relay's (if there is one) and the service's."""

    client: Inside
    server: Inside
    middle: Inside | None = None


@contextmanager
def build_line(*, relay: bool) -> Iterator[Line]:
    """Two namespaces joined by a cable, or by two and a third one between them; nothing is left of them."""
    prefix = f"bsc-probe{os.getpid()}-{next(_number)}"
    names = ["client", "server", "middle"] if relay else ["client", "server"]
    made: list[Inside] = []
    try:
        for name in names:
            made.append(Inside(f"{prefix}-{name}"))  # noqa: PERF401 - those before one that fails are removed too
        line = Line(*made)
        if line.middle:
            connect(line.client, "cable", line.middle, "near")
            connect(line.server, "cable", line.middle, "far")
        else:
            connect(line.client, "cable", line.server, "cable")
        for inside, four, six in ((line.client, CLIENT, CLIENT_V6), (line.server, SERVER, SERVER_V6)):
            ip("-n", inside.name, "address", "add", f"{four}/24", "dev", "cable")
            ip("-n", inside.name, "address", "add", f"{six}/64", "dev", "cable", "nodad")
        yield line
    finally:
        for inside in made:
            inside.remove()
        left = [entry.name for entry in Path("/run/netns").iterdir() if entry.name.startswith(prefix)]
        assert not left


def connect(one: Inside, name: str, other: Inside, other_name: str) -> None:
    ip("link", "add", name, "netns", one.name, "type", "veth", "peer", "name", other_name, "netns", other.name)
    for inside, link in ((one, name), (other, other_name)):
        inside.link(link, "up")
