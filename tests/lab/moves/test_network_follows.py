"""Moves under which the network follows the VM, or does not: what the report says of it, and what clients can reach."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lab.moves.conftest import Place

pytestmark = pytest.mark.lab

SECOND = "52:54:00:77:01:32"
ECHO = """
import socket, sys
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.settimeout(5)
sock.sendto(b"hello", (sys.argv[1], 7))
sys.exit(0 if sock.recv(100) == b"hello" else 1)
"""
SPEAK = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    sock.sendto(b"hello", (sys.argv[1], 9))
    time.sleep(0.002)
"""


def final_network(there: Place, source: str, report: dict[str, Any]) -> dict[str, Any]:
    """The network's part of the report once it is complete."""

    def settled() -> dict[str, Any] | None:
        network: dict[str, Any] = there.lab.request(source, "GET", f"/v1/moves/{report['id']}/report")["network"]
        return network if network["state"] != "watching" else None

    found: dict[str, Any] = there.wait(settled, "the network's part of the report")
    return found


def says_hello_over_ipv6(there: Place) -> bool:
    return there.lab.run("client", [sys.executable, "-c", ECHO, there.guest.address_v6]).returncode == 0


class Listening:
    """tcpdump at the client, beside a move: what everybody on the network is told."""

    def __init__(self, there: Place, folder: Path) -> None:
        self._errors, self._output = folder / "tcpdump.err", folder / "tcpdump.out"
        with self._errors.open("wb") as errors, self._output.open("wb") as output:
            what = [
                "tcpdump",
                "-l",
                "-n",
                "-e",
                "-i",
                "up0",
                "ether",
                "src",
                there.guest.mac,
                "and",
                "ether",
                "multicast",
            ]
            self._process: subprocess.Popen[bytes] = there.lab.popen("client", what, stdout=output, stderr=errors)
        there.wait(lambda: "listening on" in self._errors.read_text(), "tcpdump to listen")

    def text(self) -> str:
        return self._output.read_text()

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def test_all_addresses_are_announced_and_the_network_is_seen_to_follow(
    place: Callable[..., Place], tmp_path: Path
) -> None:
    there = place()
    guest = there.guest
    there.guest.status(there.lab)
    assert says_hello_over_ipv6(there)
    listening = Listening(there, tmp_path)
    report = there.move("h1", "h2")
    network = final_network(there, "h1", report)
    assert network["state"] == "seen", network
    assert network["why"] == ""
    assert network["clock"] == "h2"
    assert network["verified_ms"] >= 0
    assert network["at_source_after_run"] == 0
    assert network["nics"][0]["addresses"] >= 2
    for said in (
        f"Reverse Request who-is {guest.mac}",
        f"Request who-has {guest.address} tell {guest.address}",
        f"neighbor advertisement, tgt is {guest.address_v6}",
        f"Request who-has {guest.address} tell {guest.address}, length 28",  # the guest's own, not filled up
    ):
        there.wait(lambda said=said: said in listening.text(), f"{said!r} in {listening.text()}")
    listening.end()
    text = there.bascule("h1", "report", report["id"]).stdout
    assert "follows the VM: seen" in text

    back = final_network(there, "h2", there.move("h2", "h1"))
    assert back["state"] == "seen", back
    assert back["nics"][0]["addresses"] >= network["nics"][0]["addresses"]
    assert says_hello_over_ipv6(there)
    there.assert_only_on("h1")


def test_a_switch_with_a_stale_entry_is_announced_to_until_it_gives_way(place: Callable[..., Place]) -> None:
    there = place()
    there.guest.status(there.lab)
    speaking = there.lab.popen("client", [sys.executable, "-c", SPEAK, there.guest.address])
    on_switch = ["bridge", "fdb", "replace", there.guest.mac, "dev", "h1", "master", "static", "sticky"]
    assert there.lab.run("sw", on_switch).returncode == 0
    report = there.move("h1", "h2")
    assert report["network"]["state"] == "watching"
    on_switch[2] = "delete"
    assert there.lab.run("sw", on_switch[:7]).returncode == 0
    network = final_network(there, "h1", report)
    assert network["state"] == "seen", network
    assert network["at_source_after_run"] > 0
    speaking.terminate()
    speaking.wait(10)
    there.guest.status(there.lab)
    there.assert_only_on("h2")


def test_a_nic_that_nobody_speaks_to_is_no_failure(place: Callable[..., Place]) -> None:
    there = place()
    there.bascule("h1", "vm", "stop", "guest", "--force")
    there.bascule("h1", "vm", "delete", "guest")
    there.guest.start(there.lab, "h1", f'[[nics]]\nbridge = "br0"\nmac = "{SECOND}"')
    there.guest.status(there.lab)
    report = there.move("h1", "h2")
    assert report["outcome"] == "completed"
    network = final_network(there, "h1", report)
    first, second = network["nics"]
    assert (first["mac"], first["why"]) == (there.guest.mac, "")
    assert first["verified_ms"] >= 0
    assert (network["state"], second["mac"], second["verified_ms"]) == ("not seen", SECOND, None)
    assert second["why"] == "nobody sent it anything, and no neighbour is known that could be asked"
    assert len(there.taps("h2")) == 2
    assert (there.taps("h1"), there.qemus("h1")) == ([], [])
    there.guest.status(there.lab)
