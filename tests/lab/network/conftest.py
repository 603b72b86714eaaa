"""Two hosts and a client in network namespaces, joined by a switch, for tests of taps, bridges and announcements."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
from tests.lab.network.pair import Pair

from bascule.network.bridge import sightings
from bascule.network.first_frame import SO_TIMESTAMPNS
from bascule.network.tap import Tap

CLIENT = "52:54:00:aa:00:99"
CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
PATIENCE_S = 20.0

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


class Host:
    """A network namespace, and a thread that lives in it. One that is quiet says nothing of its own: it has no IPv6."""

    def __init__(self, name: str, *, is_quiet: bool) -> None:
        self.name = name
        ip("netns", "add", name)
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)
        if is_quiet:  # before there is an interface: what one has said may be under way for long
            self.run(Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text, "1")
        ip("-n", name, "link", "set", "lo", "up")

    def _enter(self) -> None:
        namespace = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            assert _libc.setns(namespace, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        finally:
            os.close(namespace)

    def run(self, function: Callable[..., T], *arguments: object, **named: object) -> T:
        return self.start(function, *arguments, **named).result()

    def start(self, function: Callable[..., T], *arguments: object, **named: object) -> Future[T]:
        """Run it in this namespace and go on; the next one waits for it."""
        return self._thread.submit(function, *arguments, **named)

    def ip(self, *words: str) -> None:
        ip("-n", self.name, *words)

    def links(self) -> set[str]:
        return {name for _, name in self.run(socket.if_nameindex)}

    def capture(self, interface: str) -> Capture:
        return Capture(self.run(self._packet_socket, interface))

    @staticmethod
    def _packet_socket(interface: str) -> socket.socket:
        listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL))
        listening.bind((interface, ETH_P_ALL))
        return listening

    def destroy(self) -> None:
        self._thread.shutdown()
        ip("netns", "delete", self.name)


class Capture:
    """Every frame that passed one interface, in either direction."""

    def __init__(self, listening: socket.socket) -> None:
        self.socket = listening
        self.frames: list[bytes] = []

    def read(self) -> list[bytes]:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.frames.append(self.socket.recv(65536))
        return self.frames

    def send(self, frame: bytes) -> None:
        self.socket.send(frame)

    def wait_for(self, frame: bytes) -> None:
        wait_until(lambda: frame in self.read(), "a frame")

    def from_mac(self, mac: str) -> list[bytes]:
        source = bytes.fromhex(mac.replace(":", ""))
        return [frame for frame in self.read() if frame[6:12] == source]


class Net:
    """Two hosts, each with a bridge `br0` and an uplink `up0`, a client with `eth0`, and the switch between them."""

    def __init__(self, label: str, *, is_quiet: bool = False) -> None:
        self.label = label
        self._is_quiet = is_quiet
        self.hosts: list[Host] = []
        self.captures: list[Capture] = []
        self.taps: list[Tap] = []

    def build(self) -> None:
        self.switch = self._host("sw")
        snooping = ["mcast_snooping", "0"] if self._is_quiet else []  # a bridge that snoops reports a group of its own
        self.switch.ip("link", "add", "br0", "type", "bridge", *snooping)
        self.switch.ip("link", "set", "br0", "up")
        self.a, self.b, self.client = self._host("a"), self._host("b"), self._host("c")
        for host in (self.a, self.b):
            self._cable(host, "up0")
            host.ip("link", "add", "br0", "type", "bridge", *snooping)
            host.ip("link", "set", "up0", "master", "br0")
            host.ip("link", "set", "br0", "up")
        self._cable(self.client, "eth0", "address", CLIENT)
        for host in (self.switch, self.a, self.b):
            wait_until(lambda h=host: self.ports_forward(h), f"ports of {host.name}")

    def _host(self, label: str) -> Host:
        host = Host(f"bsctap-{self.label}-{label}", is_quiet=self._is_quiet)
        self.hosts.append(host)
        return host

    def _cable(self, host: Host, interface: str, *options: str) -> None:
        port = f"p-{host.name[-1]}"
        self.switch.ip("link", "add", port, "type", "veth", "peer", "name", interface, *options, "netns", host.name)
        self.switch.ip("link", "set", port, "master", "br0")
        self.switch.ip("link", "set", port, "up")
        host.ip("link", "set", interface, "up")

    wait_until = staticmethod(wait_until)

    def ports_forward(self, host: Host) -> bool:
        """Whether all ports of the host's bridge forward frames."""
        return host.run(_ports_forward, "br0")

    def ports_of(self, host: Host, mac: str) -> list[tuple[str, bool]]:
        """Where the host's bridge has learned a MAC, and whether that is a tap."""
        return [(sighting.port, sighting.is_tap) for sighting in host.run(sightings, "br0", mac)]

    def tap(self, host: Host, name: str, bridge: str = "br0", *, queues: int = 1) -> Tap:
        tap = host.run(Tap.open, name, bridge, queues=queues)
        self.taps.append(tap)
        return tap

    def capture(self, host: Host, interface: str) -> Capture:
        capture = host.capture(interface)
        self.captures.append(capture)
        return capture

    def destroy(self) -> None:
        for tap in self.taps:
            tap.close()
        for capture in self.captures:
            capture.socket.close()
        for host in self.hosts:
            host.destroy()


def _ports_forward(bridge: str) -> bool:
    listing = subprocess.run(["bridge", "link", "show"], check=True, capture_output=True, text=True).stdout
    states = re.findall(rf"master {bridge} state (\w+)", listing)
    return bool(states) and set(states) == {"forwarding"}


@pytest.fixture(scope="session", autouse=True)
def stamped_frames() -> Iterator[None]:
    """Have the kernel stamp all frames as they come in.

    It begins to some time after the first socket of the machine has asked, and gives a frame that it did not stamp the
    time at which it is read. The agents ask seconds before a VM runs; these tests send at once.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        listening.bind(("127.0.0.1", 0))

        def stamps_at_arrival() -> bool:
            listening.sendto(b"", listening.getsockname())
            sent_ns = time.time_ns()  # over the loopback it has come when sendto returns
            time.sleep(0.001)  # else one that is stamped when read would look like one stamped in time
            _, ancillary, _, _ = listening.recvmsg(1, 64)
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            return bool(seconds * 1_000_000_000 + nanoseconds <= sent_ns)

        wait_until(stamps_at_arrival, "the kernel's stamps")
        yield


@contextlib.contextmanager
def built(*, is_quiet: bool) -> Iterator[Net]:
    net = Net(str(os.getpid()), is_quiet=is_quiet)
    try:
        net.build()
        yield net
    finally:
        net.destroy()


@pytest.fixture
def net() -> Iterator[Net]:
    with built(is_quiet=False) as net:
        yield net


@pytest.fixture
def quiet_net() -> Iterator[Net]:
    """For a test that counts every frame."""
    with built(is_quiet=True) as net:
        yield net


@pytest.fixture
def pair(quiet_net: Net) -> Iterator[Pair]:
    with closing(Pair(quiet_net)) as pair:
        yield pair
