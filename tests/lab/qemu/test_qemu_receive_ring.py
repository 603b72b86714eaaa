"""How many frames a guest has got, read in its memory: a real guest behind a cable whose far end the test holds."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bascule.lab.guest_image import build
from bascule.lab.places import CACHE
from bascule.qemu.machine import QemuMachine
from bascule.qemu.receive_ring import HEADER_BYTES, ReceiveRing

pytestmark = pytest.mark.lab

BROADCAST = b"\xff" * 6 + bytes.fromhex("52540000aa01") + b"\x88\xb5" + bytes(46)  # to everybody, of no protocol


async def start(bench: Any, cable: socket.socket, *, guest: bool) -> QemuMachine:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    cable.connect(("127.0.0.1", own))
    net = f"socket,id=net0,udp=127.0.0.1:{cable.getsockname()[1]},localaddr=127.0.0.1:{own}"
    extra: tuple[str, ...] = ("-netdev", net, "-device", "virtio-net-pci,id=nic0,netdev=net0,romfile=")
    kernel = None
    if guest:
        image = build(CACHE)
        kernel, initrd = (_share(bench.home, file) for file in (image.kernel, image.initrd))
        command_line = "console=ttyS0 quiet bascule.ip=10.77.0.50/24 bascule.dirty_mib=0"
        extra += ("-initrd", str(initrd), "-append", command_line)
    machine: QemuMachine = await bench.launch("m", kernel=kernel, memory_mib=256, extra=extra)
    await machine.let_vcpus_run()
    return machine


def _share(home: Path, file: Path) -> Path:
    there = home / file.name
    there.write_bytes(file.read_bytes())
    there.chmod(0o644)
    return there


async def test_each_frame_is_counted_once_it_is_in_the_guest(bench: Any):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as cable:
        cable.bind(("127.0.0.1", 0))
        machine = await start(bench, cable, guest=True)
        found: list[ReceiveRing] = []

        async def the_driver_is_there() -> bool:
            if (ring := await ReceiveRing.find(machine, 0)) is not None:
                found.append(ring)
            return bool(found)

        await bench.until(the_driver_is_there, "the guest's driver sets up its queue", 60)

        async def it_speaks() -> bool:
            """Its card is up: before that, a frame may find no buffer and wait in QEMU."""
            with suppress(BlockingIOError):
                return bool(cable.recv(1 << 16, socket.MSG_DONTWAIT))
            return False

        await bench.until(it_speaks, "the guest to say something by its card", 60)
        ring = found[0]
        before = ring.used()
        assert before is not None

        async def they_are_in(count: int) -> bool:
            return ring.used() == (before + count) % 65536

        for count in range(1, 21):
            cable.send(BROADCAST)
            await bench.until(lambda count=count: they_are_in(count), f"frame {count} to be in the guest")
        last = [BROADCAST[:-4] + b"la%02d" % number for number in range(5)]
        for frame in last:
            cable.send(frame)
        await bench.until(lambda: they_are_in(25), "the last frames to be in the guest")
        await machine.execute("stop")
        for _ in range(5):
            cable.send(BROADCAST)
        status = await machine.execute("x-query-virtio-queue-status", {"path": _path(), "queue": 0})
        assert status["used-idx"] == ring.used() == (before + 25) % 65536
        given = [(used, filled[HEADER_BYTES:]) for used, filled in ring.given(64)]
        assert given[0] == ((before + 25) % 65536, last[-1])
        place = {frame: (before + 21 + number) % 65536 for number, frame in enumerate(last)}
        assert all(place[frame] == used for used, frame in given if frame in place)
        assert ring.given(1) == ring.given(64)[:1]
        await machine.process.kill()
        assert ring.used() is None
        assert ring.given(64) == []
        ring.close()


async def test_without_a_driver_there_is_nothing_to_count(bench: Any):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as cable:
        cable.bind(("127.0.0.1", 0))
        machine = await start(bench, cable, guest=False)
        assert await ReceiveRing.find(machine, 0) is None
        assert await ReceiveRing.find(machine, 1) is None


def _path() -> str:
    return "/machine/peripheral/nic0/virtio-backend"
