"""The guest's program, run on the host with ports that need no rights."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bascule

DEADLINE_S = 20
RUN = """
import sys
from bascule.lab.guest import settings, workload
workload.run(settings.parse(sys.argv[1]), "boot", echo_port=int(sys.argv[2]), http_port=int(sys.argv[3]))
"""


class Guest:
    """A running workload."""

    def __init__(self, process: subprocess.Popen[str], echo_port: int, http_port: int) -> None:
        self.process = process
        self.echo = ("127.0.0.1", echo_port)
        self.http_port = http_port

    def request(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()

    def status(self) -> dict[str, Any]:
        code, body = self.request("/status")
        assert code == 200
        status: dict[str, Any] = json.loads(body)
        return status

    def status_when(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE_S
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, status
        return status

    def tcp(self) -> socket.socket:
        return socket.create_connection(self.echo, timeout=DEADLINE_S)

    def udp(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(DEADLINE_S)
        sock.connect(self.echo)
        return sock


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[str], Guest]]:
    guests = []

    def run(settings: str = "") -> Guest:
        ports = free_port(), free_port()
        # -S and no site-packages: what the workload imports must be there without them.
        command = [sys.executable, "-S", "-c", RUN, settings, *map(str, ports)]
        environment = {"PYTHONPATH": str(Path(bascule.__file__).parents[1])}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        guests.append(process)
        assert process.stdout is not None
        assert any("bascule-guest: ready" in line for line in process.stdout)
        return Guest(process, *ports)

    yield run
    for process in guests:
        assert process.poll() is None, "a workload has died"
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def guest(start: Callable[[str], Guest]) -> Guest:
    return start("bascule.dirty_mib=2 bascule.rate_mb_s=30 bascule.injection=1")


def test_datagrams_come_back_to_whoever_sent_them(guest: Guest) -> None:
    clients = [guest.udp() for _ in range(5)]
    for number in range(50):  # a few at a time: what overflows a socket's queue may be dropped
        for who, client in enumerate(clients):
            client.send(f"{who} {number}".encode())
        for who, client in enumerate(clients):
            assert client.recv(100).decode() == f"{who} {number}"
    for client in clients:
        client.close()


def test_datagrams_of_every_size_come_back(guest: Guest) -> None:
    with guest.udp() as client:
        for size in (0, 1, 1472, 65507, 0, 3):
            data = os.urandom(size)
            client.send(data)
            assert client.recv(65536) == data


def test_a_sender_that_comes_back_on_the_same_port_is_served(guest: Guest) -> None:
    port = free_port()
    for _ in range(3):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(DEADLINE_S)
            client.bind(("127.0.0.1", port))
            for _ in range(3):
                client.sendto(b"hello", guest.echo)
                while (echo := client.recvfrom(100)) == (b"late", guest.echo):
                    pass
                assert echo == (b"hello", guest.echo)
            # One that is not waited for: its echo finds nobody, or whoever has the port next.
            client.sendto(b"late", guest.echo)


def test_a_stream_comes_back_in_order_though_the_client_reads_late(guest: Guest) -> None:
    sent = os.urandom(6 << 20)
    with guest.tcp() as client:
        sender = threading.Thread(target=client.sendall, args=(sent,))
        sender.start()
        with guest.tcp() as other:  # a client that does not read holds up nobody else
            other.sendall(b"ping")
            assert other.recv(10) == b"ping"
        received = bytearray()
        while len(received) < len(sent):
            received += client.recv(1 << 20)
        sender.join()
    assert received == sent


def test_a_connection_that_breaks_off_harms_nobody(guest: Guest) -> None:
    for _ in range(20):
        client = guest.tcp()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
        client.sendall(bytes(100_000))
        client.close()
    with guest.tcp() as client:
        client.sendall(b"ping")
        assert client.recv(10) == b"ping"


def exchange(guest: Guest, *parts: bytes) -> bytes:
    """Send the parts one by one, and return all that comes until the guest ends the connection."""
    with socket.create_connection(("127.0.0.1", guest.http_port), timeout=DEADLINE_S) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            client.sendall(part)
        received = bytearray()
        while data := client.recv(65536):
            received += data
        return bytes(received)


def test_a_connection_is_kept_for_many_requests(guest: Guest) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", guest.http_port, timeout=DEADLINE_S)
    with contextlib.closing(connection):
        connection.connect()
        sock = connection.sock
        for path, kind in [("/", "text/html"), ("/", "text/html"), ("/status", "application/json"), ("/", "text/html")]:
            connection.request("GET", path)
            response = connection.getresponse()
            assert (response.status, response.getheader("Content-Type")) == (200, kind)
            response.read()
        assert connection.sock is sock


def test_requests_may_come_in_pieces_or_together(guest: Guest) -> None:
    one, last = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
    assert exchange(guest, one, *[bytes([byte]) for byte in one], last).count(b"Still here") == 3
    assert exchange(guest, one + one + one + last).count(b"Still here") == 4
    assert exchange(guest, one + one[:7], one[7:] + last).count(b"Still here") == 3


def test_an_old_client_gets_its_answer_and_the_end(guest: Guest) -> None:
    assert b"Still here" in exchange(guest, b"GET / HTTP/1.0\r\n\r\n")


def test_wrong_requests_are_told_so(guest: Guest) -> None:
    assert guest.request("/nothing")[0] == 404
    assert guest.request("/", "DELETE")[0] == 404
    assert exchange(guest, b"GET /" + b"a" * 20_000).startswith(b"HTTP/1.1 431 ")
    assert exchange(guest, b"rubbish\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 404 ")


def test_status_counts_what_was_served(guest: Guest) -> None:
    before = guest.status()
    with guest.udp() as udp, guest.tcp() as tcp:
        udp.send(b"x")
        udp.recv(10)
        tcp.sendall(b"12345")
        assert tcp.recv(10) == b"12345"
    after = guest.status()
    assert after["udp_datagrams"] == before["udp_datagrams"] + 1
    assert after["tcp_bytes"] == before["tcp_bytes"] + 5
    assert after["tcp_connections"] == before["tcp_connections"] + 2  # the other is this request's
    assert after["http_requests"] == before["http_requests"] + 1
    assert after["boot_id"] == "boot"
    assert after["uptime_s"] >= before["uptime_s"]
    assert after["sequence"] is None


def test_memory_is_rewritten_at_the_rate_asked_for(guest: Guest) -> None:
    status = guest.status_when(lambda status: abs(status["rate_mb_s"] - 30) < 1)
    assert status["dirty_mib"] == 2
    assert status["passes"] == status["blocks_written"] // 32
    assert status["blocks_checked"] == status["blocks_written"] - 32


def test_injected_damage_is_found(start: Callable[[str], Guest]) -> None:
    guest = start("bascule.dirty_mib=2 bascule.rate_mb_s=30 bascule.injection=1")
    healthy = guest.status_when(lambda status: status["passes"] > 2)
    assert healthy["corrupt_blocks"] == 0
    assert healthy["corruption"] == []
    assert guest.request("/inject/page", "POST") == (200, b"done\n")
    guest.status_when(lambda status: status["corrupt_blocks"] == 1)
    assert guest.request("/inject/byte", "POST") == (200, b"done\n")
    found = guest.status_when(lambda status: status["corrupt_blocks"] == 2)
    assert [story["stale_passes"] for story in found["corruption"]] == [1, 0]
    assert [story["wrong_bytes"] for story in found["corruption"]][1] == 1


def test_memory_can_be_filled_and_left(start: Callable[[str], Guest]) -> None:
    guest = start("bascule.dirty_mib=2")
    status = guest.status_when(lambda status: status["passes"] == 1)
    assert status["blocks_checked"] == 0
    assert guest.request("/inject/byte", "POST")[0] == 404  # nobody allowed that


def test_an_idle_guest_serves(start: Callable[[str], Guest]) -> None:
    guest = start("quiet")
    with guest.tcp() as client:
        client.sendall(b"ping")
        assert client.recv(10) == b"ping"
    assert guest.status()["blocks_written"] == 0
