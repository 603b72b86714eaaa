"""The built arguments on a real QEMU: unprivileged, in its sandbox, the promised machine, the same on both sides."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bascule.lab.newer_qemu import lab_qemu
from bascule.lab.places import CACHE
from bascule.qemu.command_line import LaunchPaths, build
from bascule.qemu.process import read_log
from bascule.vm.definition import MAX_DISKS, MAX_NICS, Definition, Disk, Nic

pytestmark = pytest.mark.lab

USER = 64124  # nobody's id: no passwd entry is needed
PATIENCE_S = 60.0
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000

# Prints "@" on the serial port, waits for the power button of ACPI, then switches the power off.
POWER_BUTTON_LISTENER = bytes.fromhex(
    "ba0206 b80001 ef"  # out 0x602, 0x0100   enable the power button's event
    "baf803 b040 ee"  # out 0x3f8, '@'
    "ba0006 ed f6c401 74f7"  # in ax, 0x600; test ah, 1; jz back
    "ba0406 b80020 ef ebfe"  # out 0x604, 0x2000   sleep state S5; jmp to itself
)

VM = Definition(
    name="web",
    uuid="6f9619ff-8b86-4d01-b42d-00c04fc964ff",
    memory_mib=64,
    vcpus=2,
    cpu="Nehalem",
    machine="pc-q35-7.2",
    accel="tcg",
    nics=(Nic("br0", "52:54:00:00:00:01"), Nic("br0", "52:54:00:00:00:02")),
    vnc=True,
)
TAPS_CUT_UDP = tuple(map(int, platform.release().split(".")[:2])) >= (6, 2)
BOTH_MACHINES = pytest.mark.parametrize("machine", ["pc-q35-7.2", "pc-i440fx-7.2"])


class Qemu:
    """One QEMU process with the rawest of QMP sessions."""

    def __init__(
        self, definition: Definition, directory: Path, *, incoming: bool = False, binary: str = "qemu-system-x86_64"
    ) -> None:
        self.paths = LaunchPaths(str(directory))
        directory.mkdir(mode=0o700)
        os.chown(directory, USER, USER)
        taps = [_open_tap() for _ in definition.nics]
        argv = build(
            definition,
            binary=binary,
            accelerator="tcg",
            paths=self.paths,
            tap_fds=[[tap] for tap in taps],
            incoming=incoming,
        )
        with Path(self.paths.log).open("wb") as log:
            self.process = subprocess.Popen(
                argv, user=USER, group=USER, extra_groups=[], pass_fds=taps, stderr=log, start_new_session=True
            )
        for tap in taps:
            os.close(tap)
        self._session: socket.socket | None = None

    def goes_on(self) -> None:
        """It waits at its monitor before it does."""
        self._session = wait_for(lambda: self._connected_to(self.paths.qmp), "QEMU's monitor")
        self._answers = self._session.makefile("rb")

    def connect(self) -> None:
        self.goes_on()
        assert "QMP" in json.loads(self._answers.readline())
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        assert self._session is not None
        self._session.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            answer = json.loads(self._answers.readline())
            if "event" not in answer:
                assert "return" in answer, answer
                return answer["return"]

    def status(self) -> str:
        return str(self.ask("query-status")["status"])

    def addresses(self) -> dict[str, str]:
        """The PCI address of every device with an id."""
        (bus,) = self.ask("query-pci")
        return {
            device["qdev_id"]: f"{device['slot']:02x}.{device['function']}"
            for device in bus["devices"]
            if device["qdev_id"]
        }

    def quit(self) -> None:
        self.ask("quit")
        assert self.process.wait(PATIENCE_S) == 0
        assert self.said() == ""

    def said(self) -> str:
        return read_log(str(Path(self.paths.log).parent))

    def end(self) -> None:
        if self._session is not None:
            self._answers.close()
            self._session.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _connected_to(self, path: str) -> socket.socket | None:
        assert self.process.poll() is None, self.said()
        session = socket.socket(socket.AF_UNIX)
        session.settimeout(PATIENCE_S)
        try:
            session.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            session.close()
            return None
        return session


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"no {what} after {PATIENCE_S:g} s"
        time.sleep(0.01)
    return value


def _open_tap() -> int:
    """A tap that vanishes when its last descriptor is closed."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"bsct%d", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    return tap


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path that QEMU's user can enter, and that has a comma."""
    path = Path(tempfile.mkdtemp(prefix="bsc,"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def launch(home: Path) -> Iterator[Callable[..., Qemu]]:
    """Start QEMUs: `launch(definition, "name", incoming=False)`; those that a test leaves are killed."""
    started: list[Qemu] = []

    def start(definition: Definition, name: str, *, fails: bool = False, **arguments: Any) -> Qemu:
        qemu = Qemu(definition, home / name, **arguments)
        started.append(qemu)
        if fails:
            qemu.goes_on()
            assert qemu.process.wait(PATIENCE_S) == 1
        else:
            qemu.connect()
        return qemu

    yield start
    for qemu in started:
        qemu.end()


@pytest.fixture
def disk(home: Path) -> Callable[..., Disk]:
    """Create an image that QEMU's user owns."""

    def create(name: str, content: bytes = b"", **fields: Any) -> Disk:
        path = home / name
        disk = Disk(str(path), "qcow2" if name.endswith(".qcow2") else "raw", **fields)
        command = ["qemu-img", "create", "-q", "-f", disk.format, "--", str(path), "1M"]
        subprocess.run(command, check=True, capture_output=True)
        if content:
            with path.open("r+b") as image:
                image.write(content)
        os.chown(path, USER, USER)
        return disk

    return create


@pytest.fixture
def vm(disk: Callable[..., Disk]) -> Definition:
    """One of everything, two disks."""
    return replace(VM, disks=(disk('a "b", c.qcow2'), disk("d.raw", read_only=True)))


@BOTH_MACHINES
def test_promised_machine(vm: Definition, machine: str, launch: Callable[..., Qemu]) -> None:
    qemu = launch(replace(vm, machine=machine), "one")
    assert qemu.status() == "prelaunch"
    assert qemu.addresses() == {
        "vga0": "02.0",
        "rng0": "03.0",
        "balloon0": "04.0",
        "disk0-device": "10.0",
        "disk1-device": "11.0",
        "nic0": "18.0",
        "nic1": "19.0",
    }
    images = {node["node-name"]: node for node in qemu.ask("query-named-block-nodes")}
    assert [images["disk0"]["drv"], images["disk1"]["drv"]] == ["qcow2", "raw"]
    assert [images["disk0"]["ro"], images["disk1"]["ro"]] == [False, True]
    assert images["disk0-storage"]["cache"]["direct"]
    (process_uids,) = [
        line.split()[1:]
        for line in Path(f"/proc/{qemu.process.pid}/status").read_text().splitlines()
        if line.startswith("Uid:")
    ]
    assert process_uids == [str(USER)] * 4
    assert Path(qemu.paths.pidfile).read_text().strip() == str(qemu.process.pid)
    qemu.quit()


@pytest.mark.parametrize("cuts_udp", [False, True])
def test_only_a_card_that_is_defined_so_offers_to_cut_udp(
    vm: Definition, launch: Callable[..., Qemu], cuts_udp: bool
) -> None:
    """An older kernel's tap cannot, and QEMU refuses a guest that uses it there."""
    card = replace(vm.nics[0], udp_segmentation=cuts_udp)
    qemu = launch(replace(vm, nics=(card,), machine="pc-q35-8.2"), "one", binary=str(lab_qemu(CACHE)))
    offered = qemu.ask("x-query-virtio-status", path="/machine/peripheral/nic0/virtio-backend")["host-features"]
    assert any("_USO" in feature for feature in offered["dev-features"]) is (cuts_udp and TAPS_CUT_UDP)
    qemu.quit()


def test_vnc_on_a_socket(vm: Definition, launch: Callable[..., Qemu]) -> None:
    qemu = launch(vm, "one")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(qemu.paths.vnc)
        assert client.recv(4) == b"RFB "
    qemu.quit()


@BOTH_MACHINES
def test_as_many_devices_as_a_definition_may_have(
    machine: str, disk: Callable[..., Disk], launch: Callable[..., Qemu]
) -> None:
    disks = tuple(disk(f"{number}.raw") for number in range(MAX_DISKS))
    nics = tuple(Nic("br0", f"52:54:00:00:00:{number:02x}") for number in range(MAX_NICS))
    qemu = launch(replace(VM, machine=machine, disks=disks, nics=nics), "one")
    assert len(qemu.addresses()) == 3 + MAX_DISKS + MAX_NICS
    qemu.quit()


@BOTH_MACHINES
def test_both_sides_are_the_same_machine(vm: Definition, machine: str, launch: Callable[..., Qemu], home: Path) -> None:
    definition = replace(vm, machine=machine)
    source = launch(definition, "source")
    destination = launch(definition, "destination", incoming=True)
    assert destination.status() == "inmigrate"
    tree = source.ask("human-monitor-command", **{"command-line": "info qtree"})
    assert tree.count("virtio-net-pci") == 2
    assert destination.ask("human-monitor-command", **{"command-line": "info qtree"}) == tree
    assert destination.ask("query-pci") == source.ask("query-pci")

    # And QEMU itself agrees: it loads the state of the one into the other.
    late = [{"capability": "late-block-activate", "state": True}]
    for side in (source, destination):
        side.ask("migrate-set-capabilities", capabilities=late)
    uri = f"unix:{home}/destination/migration.sock"
    destination.ask("migrate-incoming", uri=uri)
    source.ask("migrate", uri=uri)
    ended = ("completed", "failed")
    wait_for(lambda: source.ask("query-migrate").get("status") in ended, "end of the migration")
    assert source.ask("query-migrate")["status"] == "completed", source.said() + destination.said()
    wait_for(lambda: destination.status() != "inmigrate", "loaded state")
    assert destination.status() == "prelaunch"  # the state of a VM that never ran comes along too
    source.quit()
    destination.quit()


@BOTH_MACHINES
def test_power_button_ends_qemu(machine: str, disk: Callable[..., Disk], launch: Callable[..., Qemu]) -> None:
    boot_sector = POWER_BUTTON_LISTENER.ljust(510, b"\0") + b"\x55\xaa"
    qemu = launch(replace(VM, machine=machine, vnc=False, disks=(disk("boot.raw", boot_sector),)), "one")
    with socket.socket(socket.AF_UNIX) as console:
        console.settimeout(PATIENCE_S)
        console.connect(qemu.paths.serial)
        qemu.ask("cont")
        said = b""
        while b"@" not in said:
            received = console.recv(4096)
            assert received, said
            said += received
    assert b"SeaBIOS" in said
    qemu.ask("system_powerdown")
    assert qemu.process.wait(PATIENCE_S) == 0
    assert qemu.said() == ""
    assert said in Path(qemu.paths.serial_log).read_bytes()
    assert not Path(qemu.paths.pidfile).exists()


def test_a_second_qemu_cannot_have_the_disks(vm: Definition, launch: Callable[..., Qemu]) -> None:
    launch(vm, "one")
    assert 'Failed to get "write" lock' in launch(vm, "two", fails=True).said()


def test_cpu_that_the_host_lacks_is_not_weakened(vm: Definition, launch: Callable[..., Qemu]) -> None:
    said = launch(replace(vm, cpu="EPYC"), "one", fails=True).said()
    assert "TCG doesn't support requested features" in said
