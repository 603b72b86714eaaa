"""A lab with a guest in it, and the commands of a user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bascule.lab.agents import log_tail
from bascule.lab.guest_vm import GuestVm
from bascule.lab.laboratory import Lab
from bascule.lab.patience import patience

PATIENCE_S = 60.0 * patience()


@dataclass
class Place:
    """A lab with a running guest."""

    lab: Lab
    guest: GuestVm
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def bascule(self, host: str, *words: str, timeout_s: float = 120 * patience()) -> subprocess.CompletedProcess[str]:
        """Type a command on a host."""
        return self.lab.run(host, ["bascule", *words], timeout_s=timeout_s)

    def start(self, host: str, *words: str, heard: bool = True) -> subprocess.Popen[bytes]:
        """Type a command on a host and go on; `heard`: what it says is wanted later."""
        where = subprocess.PIPE if heard else subprocess.DEVNULL
        command = self.lab.popen(
            host,
            ["bascule", *words],
            stdin=subprocess.DEVNULL,
            stdout=where,
            stderr=where,
            start_new_session=True,
        )
        self._started.append(command)
        return command

    def close(self) -> None:
        """End the commands that a test left when it failed, and close their pipes.

        Collected as garbage later, an open pipe would make another test fail.
        """
        for command in self._started:
            with command:
                command.kill()

    def move(self, source: str, destination: str, *how: str) -> dict[str, Any]:
        """Move the guest, which has to succeed, and return the report."""
        done = self.bascule(source, "migrate", self.guest.name, destination, "--json", *how)
        assert done.returncode == 0, done.stdout + done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        assert report["outcome"] == "completed", report["reason"]
        return report

    def newest(self, host: str) -> dict[str, Any]:
        """Return the newest move of a host in short."""
        moves = self.lab.request(host, "GET", "/v1/moves")
        return moves[0] if moves else {}

    def wait_phase(self, host: str, *phases: str) -> dict[str, Any]:
        """Wait until the move from this host is in one of these phases."""

        def in_phase() -> dict[str, Any] | None:
            newest = self.newest(host)
            return newest if newest.get("phase") in phases else None

        return self.wait(in_phase, f"a move from {host} in phase {phases}")

    def wait(self, look: Callable[[], Any], what: str) -> Any:
        """Wait for something to be true."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(0.01)
        logs = "\n".join(f"{host}:\n{log_tail(self.lab.host(host).places)}" for host in ("h1", "h2"))
        raise AssertionError(f"waited {PATIENCE_S:g} s for {what}; the agents' logs end with\n{logs}")

    def state(self, host: str) -> str:
        """Return the guest's state on a host, or `absent`."""
        states = {vm["name"]: vm["state"] for vm in self.lab.request(host, "GET", "/v1/vms")}
        return states.get(self.guest.name, "absent")

    def qemus(self, host: str) -> list[int]:
        """Return the process ids of the QEMUs in a host."""
        inode = Path(f"/run/netns/{self.lab.host(host).namespace}").stat().st_ino
        found = []
        for process in Path("/proc").iterdir():
            try:
                command = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
                if b"qemu-system" in command and (process / "ns/net").stat().st_ino == inode:
                    found.append(int(process.name))
            except OSError:
                continue
        return found

    def kill_qemu(self, host: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to the one QEMU of a host."""
        (pid,) = self.qemus(host)
        os.kill(pid, number)

    def taps(self, host: str) -> list[str]:
        """Return the taps of a host."""
        links = self.lab.run(host, ["ip", "-json", "link", "show", "type", "tun"]).stdout
        return [link["ifname"] for link in json.loads(links or "[]") if link]

    def directories(self, host: str) -> list[Path]:
        """Return the folders of VMs on a host."""
        return list((self.lab.host(host).places.run / "vms").iterdir())

    def assert_only_on(self, host: str) -> None:
        """The guest runs and answers here, its memory is intact, and no other host has anything of it."""
        self.wait(lambda: self.state(host) == "running", f"{self.guest.name} running on {host}")
        for other in self.lab.hosts:
            expected = 1 if other.name == host else 0
            self.wait(
                lambda other=other, n=expected: len(self.qemus(other.name)) == n, f"{expected} QEMU on {other.name}"
            )
            self.wait(
                lambda other=other, n=expected: len(self.taps(other.name)) == n, f"{expected} tap on {other.name}"
            )
            self.wait(lambda other=other, n=expected: len(self.directories(other.name)) == n, f"{expected} folder")
            wanted = "running" if expected else "absent"
            self.wait(lambda other=other, w=wanted: self.state(other.name) == w, f"the VM {wanted} on {other.name}")
        shared = {path.name for path in self.lab.shared_directory.iterdir()}
        assert not [name for name in shared if "bascule" in name], shared
        status = self.guest.status(self.lab)
        assert status["corrupt_blocks"] == 0, status


@pytest.fixture
def place(lab: Callable[..., Lab]) -> Iterator[Callable[..., Place]]:
    """Build a lab with a guest on h1: `place(dirty_mib=64, rate_mb_s=50, hosts=2, ...)`."""

    built: list[Place] = []

    def build(
        *,
        memory_mib: int = 256,
        dirty_mib: int = 0,
        rate_mb_s: float = 0,
        vcpus: int = 1,
        queues: int = 1,
        hosts: int = 2,
        **up: Any,
    ) -> Place:
        guest = GuestVm(memory_mib=memory_mib, dirty_mib=dirty_mib, rate_mb_s=rate_mb_s, vcpus=vcpus, queues=queues)
        guest.build_image()
        built.append(Place(lab(hosts=hosts, **up), guest))
        guest.start(built[-1].lab, "h1")
        return built[-1]

    yield build
    for each in built:
        each.close()
