"""What QEMU announces of itself after a migration, and on request; each test is one sentence about it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tests.lab.qemu.conftest import Pair

from bascule.network.frames import rarp
from bascule.qemu.migration_control import MigrationParameters, tcp_uri
from bascule.qemu.qmp_schema import Features

pytestmark = pytest.mark.lab

MAC = "52:54:00:aa:00:50"
ONCE = {"initial": 50, "max": 550, "rounds": 1, "step": 100}


class Wire:
    """The far end of a NIC's cable: every frame that QEMU sends, as a datagram."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.frames: list[bytes] = []

    def arguments(self) -> tuple[str, ...]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            own = free.getsockname()[1]
        udp = f"socket,id=n0,udp=127.0.0.1:{self.socket.getsockname()[1]},localaddr=127.0.0.1:{own}"
        return ("-netdev", udp, "-device", f"virtio-net-pci,netdev=n0,mac={MAC},addr=5,romfile=")

    async def next(self) -> bytes:
        async with asyncio.timeout(20):
            self.frames.append(await asyncio.get_running_loop().sock_recv(self.socket, 2048))
        return self.frames[-1]

    def rest(self) -> list[bytes]:
        """What is there already."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(2048))
            except BlockingIOError:
                return found


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.socket.close()


async def loaded(bench: Any, features: Features, wire: Wire, **parameters: int) -> Pair:
    """A destination that has loaded everything and is paused; `parameters` are set after ours."""
    far = Wire()
    source = await bench.launch("source", extra=far.arguments())
    pair = Pair(source, await bench.launch("destination", incoming=True, extra=wire.arguments()), features)
    await source.let_vcpus_run()
    await pair.out.prepare(MigrationParameters())
    await pair.into.prepare(MigrationParameters())
    if parameters:
        await pair.destination.execute("migrate-set-parameters", parameters)
    port = await pair.into.start_incoming("127.0.0.1")
    await pair.out.start_outgoing(tcp_uri("127.0.0.1", port))
    await pair.out.set_downtime_limit(60_000)
    assert (await pair.into.wait_final(deadline_s=30)).status == "completed"
    far.socket.close()
    return pair


async def test_of_itself_qemu_announces_by_rarp_as_soon_as_it_runs(bench: Any, features: Features, wire: Wire) -> None:
    pair = await loaded(bench, features, wire, **{"announce-rounds": 5})
    assert wire.rest() == []
    await pair.destination.let_vcpus_run()
    assert [await wire.next() for _ in range(5)] == [rarp(MAC)] * 5


async def test_prepared_by_us_it_announces_nothing_but_what_it_is_told_to(
    bench: Any, features: Features, wire: Wire
) -> None:
    pair = await loaded(bench, features, wire)
    await pair.destination.let_vcpus_run()
    for _ in range(3):
        await pair.destination.execute("announce-self", ONCE)
        assert await wire.next() == rarp(MAC)
    assert wire.rest() == []


async def test_restored_parameters_announce_again(bench: Any, features: Features, wire: Wire) -> None:
    pair = await loaded(bench, features, wire)
    await pair.into.restore()
    assert (await pair.destination.execute("query-migrate-parameters"))["announce-rounds"] == 5
