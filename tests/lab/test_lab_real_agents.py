"""The lab with the real agents, from the command line as a newcomer uses it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from bascule.lab.laboratory import Lab
from bascule.lab.processes import Process
from bascule.lab.removal import find_remains

pytestmark = pytest.mark.lab

VM = """
name = "orphan"
memory = "64 MiB"
accel = "tcg"
disks = [{{ path = "{}", format = "raw" }}]
nics = [{{ bridge = "br0" }}]
"""


def bascule(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bascule.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_up_look_and_down(lab_names):
    name = lab_names()
    assert f"lab {name} is up" in bascule("lab", "up", name, "--hosts", "3", "--link", "1gbit")
    (seen,) = json.loads(bascule("lab", "status", name, "--json"))
    assert [(host["name"], host["agent"]["problem"], host["vms"]) for host in seen["hosts"]] == [
        ("h1", None, []),
        ("h2", None, []),
        ("h3", None, []),
    ]
    hosts = json.loads(bascule("lab", "run", "--lab", name, "h2", "--", "bascule", "hosts", "--json"))
    assert {host["name"]: (host["reachable"], host["self"]) for host in hosts} == {
        "h1": (True, False),
        "h2": (True, True),
        "h3": (True, False),
    }
    lab = Lab(name)
    lab.kill_agent("h1")
    lab.start_agent("h1")
    lab.cut_link("h3")
    assert lab.request("h1", "GET", "/v1/host")["name"] == "h1"
    bascule("lab", "down", name)
    assert not find_remains(name)


def test_down_ends_vms_whose_agents_were_killed(lab):
    it = lab(hosts=1)
    disk = it.shared_directory / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    it.give_to_qemu(disk)
    it.request("h1", "POST", "/v1/vms", {"toml": VM.format(disk), "origin": "test"})
    vm = it.request("h1", "POST", "/v1/vms/orphan/start", {"paused": False})
    assert vm["state"] == "running"
    qemu = Process.of(vm["pid"])
    it.kill_agent("h1", signal.SIGKILL)
    assert qemu.is_alive()
    assert any(process.startswith(f"{qemu.pid} ") for process in it.down().processes)
    assert not qemu.is_alive()


def test_a_vm_that_cannot_start_is_refused_with_all_that_is_wrong(lab):
    it = lab(hosts=1)
    disk = it.shared_directory / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    disk.chmod(0o600)
    missing = it.shared_directory / "gone.raw"
    disks = "".join(f'[[disks]]\npath = "{path}"\nformat = "raw"\n' for path in (disk, missing))
    toml = f'name = "orphan"\nmemory = 64\n{disks}[[nics]]\nbridge = "br7"\n'
    it.request("h1", "POST", "/v1/vms", {"toml": toml, "origin": "test"})
    done = it.run("h1", ["bascule", "vm", "start", "orphan"])
    assert done.returncode == 1, done.stderr
    said = " ".join(done.stderr.split())
    assert f"disk {disk}: user" in said
    assert "may not read it" in said
    assert f"there is no {missing}" in said or "it does not exist" in said
    assert "there is no bridge br7" in said
    assert it.request("h1", "GET", "/v1/vms/orphan")["state"] == "stopped"
    assert not list((it.host("h1").places.run / "vms").iterdir())
