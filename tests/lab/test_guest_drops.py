"""The guest's own drops are read as the kernel counts them: a real queue that is full, in a namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.lab

READ = "from bascule.lab.guest.drops import not_sent; print(not_sent())"


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"bsc-t{os.getpid()}-drops"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


def test_what_a_full_queue_drops_is_counted(namespace: str) -> None:
    def run(*words: str) -> str:
        return subprocess.run(
            ["ip", "netns", "exec", namespace, *words], check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    run("ip", "link", "add", "eth0", "type", "veth", "peer", "eth1")
    run("ip", "address", "add", "10.9.0.1/24", "dev", "eth0")
    run("tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "8kbit", "burst", "1540", "limit", "3000")
    run("ip", "link", "set", "eth0", "up")
    run("ip", "link", "set", "eth1", "up")
    run("ip", "neighbour", "add", "10.9.0.2", "lladdr", "52:54:00:00:00:02", "dev", "eth0")
    before = int(run(sys.executable, "-c", READ))
    send = "import socket; s=socket.socket(2,2); [s.sendto(bytes(900), ('10.9.0.2', 9)) for _ in range(20)]"
    run(sys.executable, "-c", send)
    assert int(run(sys.executable, "-c", READ)) - before >= 10
