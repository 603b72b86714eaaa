"""Real QEMU processes for tests: unprivileged, sandboxed, and gone afterwards whatever a test did."""

import asyncio
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bascule.qemu.capability_probe import CapabilityProbe
from bascule.qemu.command_line import SANDBOX, LaunchPaths, monitor
from bascule.qemu.machine import LaunchSpec, QemuMachine
from bascule.qemu.migration_control import MigrationControl, MigrationParameters, tcp_uri
from bascule.qemu.process import QemuProcess
from bascule.qemu.qmp import QmpEvent
from bascule.qemu.qmp_schema import Features
from bascule.qemu.user import QemuUser

BINARY = "qemu-system-x86_64"
USER = QemuUser(64123, 64123)  # nobody's ids: no passwd entry is needed
DIRTIED_FROM, DIRTIED_BYTES = 0x200000, 48 << 20


class Bench:
    """Starts machines under one folder that QEMU's user can enter, and ends them all."""

    binary = BINARY
    user = USER
    dirtied_bytes = DIRTIED_BYTES

    def __init__(self, home: Path) -> None:
        self.home = home
        self.dirtier = _dirtier(home)
        self._started: list[QemuMachine] = []

    def spec(
        self,
        name: str,
        *,
        incoming: bool = False,
        kernel: Path | None = None,
        memory_mib: int = 128,
        extra: tuple[str, ...] = (),
        user: QemuUser | None = USER,
    ) -> LaunchSpec:
        directory = str(self.home / name)
        paths = LaunchPaths(directory)
        argv = (
            *(BINARY, "-M", "pc", "-accel", "tcg", "-cpu", "qemu64", "-m", str(memory_mib), "-nodefaults"),
            *("-no-user-config", "-display", "none", "-S", "-sandbox", SANDBOX, "-msg", "timestamp=on"),
            *("-pidfile", paths.pidfile),
            *monitor(paths.qmp),
            *(("-incoming", "defer") if incoming else ()),
            *(("-kernel", str(kernel)) if kernel else ()),
            *extra,
        )
        return LaunchSpec(argv, directory, user)

    async def launch(self, name: str, **options: Any) -> QemuMachine:
        machine = await QemuMachine.launch(self.spec(name, **options))
        self.keep(machine)
        return machine

    def keep(self, machine: QemuMachine) -> None:
        """End it after the test."""
        self._started.append(machine)

    async def launch_busy(self, name: str, **options: Any) -> QemuMachine:
        """A running guest that rewrites `dirtied_bytes` for ever."""
        machine = await self.launch(name, kernel=self.dirtier, **options)
        await machine.let_vcpus_run()

        async def busy() -> bool:
            return await self.counter(machine) > 100

        await self.until(busy, "the guest dirties its memory")
        return machine

    async def end(self) -> None:
        for machine in self._started:
            if machine.record.is_alive():
                # A process object of its own, since the test may have closed the machine's.
                await QemuProcess.adopt(machine.record).kill()
            await machine.close()

    async def counter(self, machine: QemuMachine) -> int:
        """The word that the busy guest writes; it grows as long as the guest runs."""
        text = await machine.execute("human-monitor-command", {"command-line": f"xp /1wx {DIRTIED_FROM}"})
        return int(text.split(":")[1].strip(), 16)

    async def guest_runs(self, machine: QemuMachine) -> None:
        """Wait until the busy guest of `machine` is seen to write."""
        before = await self.counter(machine)

        async def wrote() -> bool:
            return await self.counter(machine) != before

        await self.until(wrote, "the guest writes again")

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str, deadline_s: float = 20.0) -> None:
        """Wait until `condition` holds; `what` names it if it never does."""
        try:
            async with asyncio.timeout(deadline_s):
                while not await condition():  # noqa: ASYNC110  # QEMU's memory and /proc send no notice
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pytest.fail(f"waited {deadline_s:g} s in vain: {what}")

    def disk(self) -> tuple[str, ...]:
        """Arguments for a small qcow2 disk that both sides of a migration open."""
        image = self.home / "disk.qcow2"
        if not image.exists():
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "16M"], check=True)
            os.chown(image, USER.uid, USER.gid)
        return (
            *("-blockdev", f"file,node-name=file0,filename={image}", "-blockdev", "qcow2,node-name=disk0,file=file0"),
            *("-device", "virtio-blk-pci,drive=disk0,addr=4"),
        )


class Pair:
    """A source and a destination, prepared and listening, with all their events."""

    def __init__(self, source: QemuMachine, destination: QemuMachine, features: Features) -> None:
        self.source, self.destination = source, destination
        self.out, self.into = MigrationControl(source, features), MigrationControl(destination, features)
        self.source_events: list[QmpEvent] = []
        self.destination_events: list[QmpEvent] = []
        source.subscribe(self.source_events.append)
        destination.subscribe(self.destination_events.append)

    async def start(self, **parameters: Any) -> None:
        # Capped, so that a round is longer than the first 100 ms, in which QEMU has no idea of the bandwidth yet.
        parameters.setdefault("max_bandwidth_bytes_per_s", 200_000_000)
        await self.out.prepare(MigrationParameters(**parameters))
        await self.into.prepare(MigrationParameters(**parameters))
        port = await self.into.start_incoming("127.0.0.1")
        await self.out.start_outgoing(tcp_uri("127.0.0.1", port))


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that QEMU's user can enter; at the end nothing may run from it."""
    path = Path(tempfile.mkdtemp(prefix="bascule-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)
    left = [entry.name for entry in Path("/proc").iterdir() if str(path) in _command_line(entry)]
    assert not left, f"processes {left} still run from {path}"


@pytest.fixture
async def bench(home: Path) -> AsyncIterator[Bench]:
    bench = Bench(home)
    try:
        yield bench
    finally:
        await bench.end()


@pytest.fixture
async def features(bench: Bench) -> Features:
    if not _PROBED:
        probe = CapabilityProbe(BINARY, user=USER, parent=bench.home)
        _PROBED.append((await probe.capabilities("tcg")).features)
    return _PROBED[0]


_PROBED: list[Features] = []


@pytest.fixture
async def busy_pair(bench: Bench, features: Features) -> Pair:
    """A busy guest on the source, and a destination that waits for it."""
    source = await bench.launch_busy("source")
    return Pair(source, await bench.launch("destination", kernel=bench.dirtier, incoming=True), features)


@pytest.fixture
async def idle_pair(bench: Bench, features: Features) -> Pair:
    """A guest that has nothing to boot, with a disk; and a destination that waits for it."""
    source = await bench.launch("source", extra=bench.disk())
    return Pair(source, await bench.launch("destination", incoming=True, extra=bench.disk()), features)


def _dirtier(home: Path) -> Path:
    """A kernel that rewrites one word in each page for ever, as fast as it can (multiboot, 32 bit)."""
    code = b"".join(
        (
            b"\x31\xdb",  # xor ebx, ebx
            b"\x43",  # again: inc ebx
            b"\xbf" + struct.pack("<I", DIRTIED_FROM),  # mov edi, DIRTIED_FROM
            b"\x89\x1f",  # page: mov [edi], ebx
            b"\x81\xc7\x00\x10\x00\x00",  # add edi, 4096
            b"\x81\xff" + struct.pack("<I", DIRTIED_FROM + DIRTIED_BYTES),  # cmp edi, its end
            b"\x72\xf0",  # jb page
            b"\xeb\xe8",  # jmp again
        )
    )
    load, magic, flags = 0x100000, 0x1BADB002, 0x00010000  # flags: the addresses below are valid
    header = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, load, load, 0, 0, load + 32)
    path = home / "dirtier"
    path.write_bytes(header + code)
    path.chmod(0o644)
    return path


def _command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_text(errors="replace") if entry.name.isdecimal() else ""
    except OSError:
        return ""
