"""The session against peers that are not QEMU: such as hang up, say nothing or speak nonsense."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bascule.qemu.qmp import QmpDisconnected, QmpEvent, QmpSession, QmpTimeout

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}


def ignore(event: QmpEvent) -> None:
    pass


def send(writer: asyncio.StreamWriter, message: object) -> None:
    writer.write(json.dumps(message).encode() + b"\r\n")


async def receive(reader: asyncio.StreamReader) -> dict[str, object]:
    """The next command; they come without any separator, and one at a time in these tests."""
    return dict(json.loads(await reader.read(65536)))


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    send(writer, GREETING)
    assert (await receive(reader))["execute"] == "qmp_capabilities"
    send(writer, {"return": {}})


async def greet_and_stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await greet(reader, writer)
    await reader.read()


@asynccontextmanager
async def peer(path: Path, serve: Serve) -> AsyncIterator[str]:
    """Something that listens at `path`, where QEMU would."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(handle, path)
    try:
        yield str(path)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


async def test_a_peer_that_hangs_up_at_once(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        return

    async with peer(tmp_path / "qmp", serve) as path:
        with pytest.raises(QmpDisconnected, match="hung up") as raised:
            await QmpSession.connect(path, ignore, deadline_s=5)
    assert not raised.value.maybe_ran


async def test_a_peer_that_hangs_up_right_after_the_negotiation(tmp_path: Path) -> None:
    async with peer(tmp_path / "qmp", greet) as path:
        with pytest.raises(QmpDisconnected, match=r"hung up on .* at once"):
            await QmpSession.connect(path, ignore, deadline_s=5)


async def test_a_peer_that_never_greets(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(tmp_path / "qmp", serve) as path:
        with pytest.raises(QmpTimeout, match=r"did not answer on .*qmp within 0\.1 s"):
            await QmpSession.connect(path, ignore, deadline_s=0.1)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(QmpTimeout):
        await QmpSession.connect(str(tmp_path / "none"), ignore, deadline_s=0.05)


async def test_the_check_ends_the_waiting(tmp_path: Path) -> None:
    def gone() -> None:
        raise LookupError("it is gone")

    with pytest.raises(LookupError):
        await QmpSession.connect(str(tmp_path / "none"), ignore, deadline_s=30, check=gone)


async def test_a_peer_that_comes_late_is_met(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    connecting = asyncio.ensure_future(QmpSession.connect(str(path), ignore, deadline_s=10))
    await asyncio.sleep(0)
    async with peer(path, greet_and_stay):
        session = await connecting
        assert session.connected
        await session.close()


async def test_a_lost_session_fails_what_waits_and_what_comes_after(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await receive(reader)

    async with peer(tmp_path / "qmp", serve) as path:
        session = await QmpSession.connect(path, ignore, deadline_s=5)
        with pytest.raises(QmpDisconnected, match="the session ended during cont") as raised:
            await session.execute("cont")
        assert raised.value.maybe_ran
        assert await session.ended() == "QEMU hung up"
        with pytest.raises(QmpDisconnected, match="cannot send cont: QEMU hung up") as raised:
            await session.execute("cont")
        assert not raised.value.maybe_ran
        with pytest.raises(QmpDisconnected):
            await session.pass_fd(0, "name")
        await session.close()
        await session.close()


async def test_a_peer_that_speaks_nonsense_loses_the_session(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await receive(reader)
        writer.write(b"nonsense\r\n")
        await reader.read()

    async with peer(tmp_path / "qmp", serve) as path:
        session = await QmpSession.connect(path, ignore, deadline_s=5)
        with pytest.raises(QmpDisconnected):
            await session.execute("query-status")
        assert "deserialize" in await session.ended()
        assert not session.connected


async def test_events_come_in_order_with_both_clocks_and_are_not_kept(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await receive(reader)
        for number in range(1000):
            stamp = {"seconds": 1_700_000_000, "microseconds": number}
            send(writer, {"event": "STOP", "timestamp": stamp} | ({"data": {"n": number}} if number else {}))
        await writer.drain()

    heard: list[QmpEvent] = []
    async with peer(tmp_path / "qmp", serve) as path:
        session = await QmpSession.connect(path, heard.append, deadline_s=5)
        with pytest.raises(QmpDisconnected):
            await session.execute("query-status")
        await session.ended()
    assert [event.at_us for event in heard] == [1_700_000_000_000_000 + number for number in range(1000)]
    assert [dict(event.data) for event in heard] == [{}, *({"n": number} for number in range(1, 1000))]
    received = [event.received_s for event in heard]
    assert received == sorted(received)
    assert session._client.events.empty()
    assert session._client.events.history == ()


async def test_closing_does_not_wait_for_a_peer_that_does_not_read(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await asyncio.sleep(3600)

    async with peer(tmp_path / "qmp", serve) as path:
        session = await QmpSession.connect(path, ignore, deadline_s=5)
        # More than the socket's buffers take, so that something is left to be flushed.
        with pytest.raises(QmpTimeout):
            await session.execute("query-status", {"padding": "x" * 4_000_000}, deadline_s=0.1)
        await asyncio.wait_for(session.close(), 10)
        assert await session.ended() == "the session was closed"
