"""The probe across real links: what it counts is what was really done to its frames.

Three namespaces: the probe's, the echo services', and between them one in which this test forwards every frame by hand,
so that it can drop, copy and hold back the ones it chooses; or a link that is taken down.
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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bascule.network.outage import outage_between
from bascule.network.probe_process import ProbeSession
from bascule.network.probe_samples import Samples

pytestmark = pytest.mark.lab

PATIENCE_S = 40.0
PORT = 7
SERVER = "192.0.2.2"
CLIENT = "192.0.2.1"
MS = 1_000_000
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


@dataclass
class Service:
    """UDP and TCP echo in a namespace, and what of the probe's datagrams it answered."""

    inside: Inside
    answered: list[int] = field(default_factory=list)

    def __enter__(self) -> Service:
        self._udp = self.inside.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((SERVER, PORT))
        self._listener = self.inside.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind((SERVER, PORT))
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
            with suppress(OSError):  # the link is down: not answered
                self._udp.sendto(data, sender)
                self.answered.append(number_of(data))

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


def number_of(datagram: bytes) -> int:
    return int(struct.unpack(">QI", datagram)[1])


@dataclass
class Rules:
    """What to do to frames with these numbers. A held one goes out just after the one that it waits for."""

    drop: frozenset[int] = frozenset()
    copies: dict[int, int] = field(default_factory=dict)
    hold_until: dict[int, int] = field(default_factory=dict)


class Relay:
    """Forwards frames between two links of a namespace, each direction in a thread; the probe's datagrams by rule."""

    def __init__(self, inside: Inside, links: tuple[str, str], requests: Rules, answers: Rules) -> None:
        self._sockets = [self._open(inside, link) for link in links]
        self._ended = False
        near, far = self._sockets
        self._threads = [
            threading.Thread(target=self._forward, args=(near, far, 36, requests)),
            threading.Thread(target=self._forward, args=(far, near, 34, answers)),
        ]
        for thread in self._threads:
            thread.start()

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

    def _forward(self, here: socket.socket, there: socket.socket, port_at: int, rules: Rules) -> None:
        held: dict[int, list[bytes]] = {}
        while not self._ended:
            try:
                data, address = here.recvfrom(1 << 17)
            except TimeoutError:
                continue
            if address[2] == PACKET_OUTGOING:
                continue
            number = self._number(data[VNET_HEADER_BYTES:], port_at)
            if number in rules.drop:
                continue
            if number in rules.hold_until:
                held.setdefault(rules.hold_until[number], []).append(data)
                continue
            for _ in range(1 + rules.copies.get(number, 0)):
                there.send(data)
            for one in held.pop(number, []):
                there.send(one)

    @staticmethod
    def _number(frame: bytes, port_at: int) -> int:
        """The number in a datagram of the probe; -1 for other frames."""
        is_ours = (
            frame[12:14] == b"\x08\x00"
            and frame[23] == socket.IPPROTO_UDP
            and frame[port_at : port_at + 2] == PORT.to_bytes(2, "big")
            and len(frame) >= 54
        )
        return number_of(frame[42:54]) if is_ours else -1


@dataclass
class Line:
    """The probe's namespace, the relay's (if there is one) and the service's."""

    client: Inside
    server: Inside
    middle: Inside | None = None


@pytest.fixture
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    """Parametrised by "relay" or "direct"."""
    prefix = f"bsc-probe{os.getpid()}-{next(_number)}"
    names = ["client", "server", "middle"] if request.param == "relay" else ["client", "server"]
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
        ip("-n", line.client.name, "address", "add", f"{CLIENT}/24", "dev", "cable")
        ip("-n", line.server.name, "address", "add", f"{SERVER}/24", "dev", "cable")
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


def sent_at_least(probe: ProbeSession, kind: str, count: int) -> Samples:
    wait_until(lambda: len(probe.samples(kind).sent_at_ns) >= count, f"{count} probes by {kind}")
    return probe.samples(kind)


def answers_received(line: Line, service: Service) -> int:
    """How many answers have reached the probe's machine. (An answer may be under way when a link is cut.)"""
    return line.client.datagrams_received() - service.answered.count(GREETING)


@pytest.mark.parametrize("line", ["relay"], indirect=True)
def test_the_count_is_what_was_done(line: Line, tmp_path: Path) -> None:
    assert line.middle is not None
    requests = Rules(drop=frozenset(range(100, 150)), copies={300: 1, 310: 3}, hold_until={400: 403})
    answers = Rules(
        drop=frozenset({200, 201, 205}),
        copies={320: 2},
        hold_until={500: 503, 501: 503, 502: 503, 600: 650},
    )
    relay = Relay(line.middle, ("near", "far"), requests, answers)
    try:
        with (
            Service(line.server) as service,
            ProbeSession.start(
                tmp_path / "recording", namespace=line.client.name, udp=f"{SERVER}:{PORT}", hz=1000
            ) as probe,
        ):
            probe.wait_connected()
            assert not probe.silent
            sent_at_least(probe, "udp", 800)
            probe.stop()
            samples = probe.samples("udp")
            seen = outage_between(samples, 0, time.monotonic_ns(), origin_ns=0)
    finally:
        relay.end()

    assert seen.sent == len(samples.sent_at_ns) >= 800
    assert seen.lost == 50 + 3
    assert seen.duplicated == (1 + 3) + 2
    # A copy of a request overtakes nothing. 400 was overtaken on the way there, 500 to 502 and 600 on the way back; the
    # three went out in their own order after 503, so each of them was overtaken by it.
    assert seen.reordered == 1 + 3 + 1
    assert {int(at * 1e9) // MS for at, rtt in seen.samples if rtt is None} == {
        samples.sent_at_ns[number] // MS for number in (*range(100, 150), 200, 201, 205)
    }
    before = max(place for place, number in enumerate(samples.answer_sequence) if number < 100)
    gap_ns = samples.answer_at_ns[before + 1] - samples.answer_at_ns[before]
    assert gap_ns > samples.sent_at_ns[149] - samples.answer_at_ns[before]
    assert seen.longest_silence_ms is not None
    assert seen.longest_silence_ms >= round(gap_ns / MS, 4)
    assert len(service.answered) - service.answered.count(GREETING) == seen.sent - 50 + 1 + 3


@pytest.mark.parametrize("line", ["direct"], indirect=True)
def test_a_link_that_is_cut(line: Line, tmp_path: Path) -> None:
    """UDP loses what the service did not get; TCP loses nothing, keeps its connection and each byte in its place."""
    begin = time.monotonic_ns()
    with (
        Service(line.server) as service,
        ProbeSession.start(
            tmp_path / "recording",
            namespace=line.client.name,
            udp=f"{SERVER}:{PORT}",
            tcp=f"{SERVER}:{PORT}",
            hz=500,
        ) as probe,
    ):
        probe.wait_connected()
        before = len(sent_at_least(probe, "udp", 100).sent_at_ns)
        line.server.link("cable", "down")
        cut_ns = time.monotonic_ns()
        sent_at_least(probe, "udp", before + 150)
        mended_ns = time.monotonic_ns()
        line.server.link("cable", "up")
        sent_at_least(probe, "udp", len(probe.samples("udp").sent_at_ns) + 100)
        mark = len(probe.samples("tcp").sent_at_ns)
        wait_until(lambda: len(probe.samples("tcp").answer_at_ns) > mark, "the TCP stream to catch up")
        probe.stop(timeout_s=PATIENCE_S)
        end = time.monotonic_ns()
        udp, tcp = (probe.outage(kind, begin, end) for kind in ("udp", "tcp"))
        stream = probe.connection("tcp", begin, end)

    assert udp.lost == udp.sent - answers_received(line, service)
    assert udp.lost >= udp.sent - len(set(service.answered) - {GREETING}) > 0
    assert udp.duplicated == 0  # what waited for ARP when the link came back may well be overtaken
    for one in (udp, tcp):
        assert one.longest_silence_ms is not None
        assert one.longest_silence_ms >= (mended_ns - cut_ns) / MS
    assert (tcp.lost, tcp.duplicated, tcp.reordered) == (0, 0, 0)
    assert stream is not None
    assert stream.is_unbroken
    assert stream.verified_bytes == 8 * tcp.sent


@pytest.mark.parametrize("line", ["direct"], indirect=True)
def test_a_send_that_the_own_kernel_refuses_is_lost(line: Line, tmp_path: Path) -> None:
    with (
        Service(line.server) as service,
        ProbeSession.start(tmp_path / "recording", namespace=line.client.name, udp=f"{SERVER}:{PORT}", hz=500) as probe,
    ):
        probe.wait_connected()
        before = len(sent_at_least(probe, "udp", 50).sent_at_ns)
        line.client.link("cable", "down")
        sent_at_least(probe, "udp", before + 100)
        line.client.link("cable", "up")
        sent_at_least(probe, "udp", len(probe.samples("udp").sent_at_ns) + 50)
        probe.stop()
        seen = outage_between(probe.samples("udp"), 0, time.monotonic_ns())
    assert seen.lost == seen.sent - answers_received(line, service)
    assert seen.lost >= seen.sent - len(set(service.answered) - {GREETING}) > 0
    assert "could not leave this machine (Network is unreachable)" in seen.note


@pytest.mark.parametrize("line", ["direct"], indirect=True)
def test_ten_thousand_a_second(line: Line, tmp_path: Path) -> None:
    """However busy the machine: each moment was used, or is in a recorded gap, and what was answered was counted."""
    with (
        Service(line.server) as service,
        ProbeSession.start(
            tmp_path / "recording", namespace=line.client.name, udp=f"{SERVER}:{PORT}", hz=10_000, duration_s=1.0
        ) as probe,
    ):
        probe.wait_connected()
        assert probe.wait_ended(PATIENCE_S)
        samples = probe.samples("udp")
        assert samples.stopped_at_ns is not None
        seen = outage_between(samples, samples.sent_at_ns[0], samples.stopped_at_ns)
        skipped = sum(
            (end - begin) // 100_000 for begin, end in zip(samples.pause_begin_ns, samples.pause_end_ns, strict=True)
        )
    assert abs(seen.sent + skipped - 10_000) <= 2
    assert seen.duplicated == 0
    assert seen.lost == seen.sent - answers_received(line, service)
