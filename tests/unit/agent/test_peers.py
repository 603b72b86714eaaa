"""Asking another agent: an answer, an error that it named, or no answer at all, and never one for the other."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
from aiohttp import web

from bascule.agent.clock import wall_us
from bascule.agent.peers import NoAnswerError, Peers
from bascule.errors import Failed, Finding, Refused, Unknown

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
AHEAD_US = 2_500_000


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    opened = Peers()
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    """Start small agents that answer everything by one handler; gives their addresses."""
    runners: list[web.AppRunner] = []

    async def serve(handler: Handler) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        return f"{host}:{port}"

    yield serve
    for runner in runners:
        await runner.cleanup()


Serve = Callable[[Handler], Awaitable[str]]


def answering(body: object, status: int = 200) -> Handler:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return handler


async def test_the_question_arrives_as_it_was_asked_and_the_answer_comes_back(peers: Peers, serve: Serve) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        return web.json_response({"method": request.method, "path": request.path, "body": body})

    address = await serve(echo)
    assert await peers.ask(address, "POST", "/v1/peer/moves/m1/take", {"state_file": None}) == {
        "method": "POST",
        "path": "/v1/peer/moves/m1/take",
        "body": {"state_file": None},
    }
    assert await peers.ask(address, "GET", "/v1/peer/host") == {"method": "GET", "path": "/v1/peer/host", "body": None}


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [(409, "refused", Refused), (404, "refused", Refused), (500, "failed", Failed), (503, "unknown", Unknown)],
)
async def test_an_error_that_was_named_is_raised_as_what_it_is(
    peers: Peers, serve: Serve, status: int, kind: str, expected: type[Exception]
) -> None:
    finding = {"subject": "host h2", "problem": "no memory", "remedy": "free some"}
    error = {"kind": kind, "message": "cannot do it", "remedy": "do it otherwise", "findings": [finding]}
    address = await serve(answering({"error": error}, status))
    with pytest.raises(expected) as caught:
        await peers.ask(address, "POST", "/v1/peer/check", {})
    assert type(caught.value) is expected
    assert caught.value.message == "cannot do it"  # type: ignore[attr-defined]
    assert caught.value.remedy == "do it otherwise"  # type: ignore[attr-defined]
    assert caught.value.findings == (Finding("host h2", "no memory", "free some"),)  # type: ignore[attr-defined]


@pytest.mark.parametrize("body", [{"detail": "no"}, ["no"], "no", {"error": "no"}, None])
async def test_an_error_in_a_foreign_tongue_is_a_failure_with_its_status(
    peers: Peers, serve: Serve, body: object
) -> None:
    address = await serve(answering(body, 500))
    with pytest.raises(Failed, match=f"the agent at {address} answered with HTTP status 500"):
        await peers.ask(address, "GET", "/v1/peer/host")


async def test_nobody_there_is_no_answer(peers: Peers, unused_tcp_port: int) -> None:
    with pytest.raises(NoAnswerError, match=f"the agent at 127.0.0.1:{unused_tcp_port} could not be asked"):
        await peers.ask(f"127.0.0.1:{unused_tcp_port}", "GET", "/v1/peer/host")


async def test_a_name_that_nobody_has_is_no_answer(peers: Peers) -> None:
    with pytest.raises(NoAnswerError):
        await peers.ask("no-such-host.invalid:7440", "GET", "/v1/peer/host")


async def test_silence_is_no_answer_after_the_deadline(peers: Peers, serve: Serve) -> None:
    asked = asyncio.Event()

    async def silent(_request: web.Request) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    address = await serve(silent)
    with pytest.raises(NoAnswerError, match=f"the agent at {address} did not answer within 0.2 s"):
        await peers.ask(address, "POST", "/v1/peer/moves/m1/take", {}, deadline_s=0.2)
    assert asked.is_set()  # so that nothing is known of what became of the question


async def test_an_answer_that_breaks_off_is_no_answer(peers: Peers, serve: Serve) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "100"})
        await response.prepare(request)
        await response.write(b'{"decision": "taken", ')
        assert request.transport is not None
        request.transport.abort()
        return response

    with pytest.raises(NoAnswerError):
        await peers.ask(await serve(broken), "POST", "/v1/peer/moves/m1/take", {})


async def test_an_answer_that_is_not_json_is_no_answer(peers: Peers, serve: Serve) -> None:
    async def page(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>somebody else's server</html>", content_type="text/html")

    with pytest.raises(NoAnswerError, match="could not be asked"):
        await peers.ask(await serve(page), "GET", "/v1/peer/host")


async def test_one_silent_agent_does_not_keep_the_others_waiting(peers: Peers, serve: Serve) -> None:
    async def silent(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    quiet, quick = await serve(silent), await serve(answering({"name": "h2"}))
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(swallow(peers, quiet)) for _ in range(20)]
        assert await peers.ask(quick, "GET", "/v1/peer/host") == {"name": "h2"}
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()


async def swallow(peers: Peers, address: str) -> None:
    with suppress(NoAnswerError):
        await peers.ask(address, "GET", "/v1/peer/host", deadline_s=60)


async def test_a_restarted_agent_is_asked_over_a_new_connection(peers: Peers) -> None:
    async def run(port: int) -> tuple[web.AppRunner, int]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answering({"ok": True}))
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        return runner, runner.addresses[0][1]

    runner, port = await run(0)
    assert await peers.ask(f"127.0.0.1:{port}", "GET", "/") == {"ok": True}
    await runner.cleanup()
    with pytest.raises(NoAnswerError):
        await peers.ask(f"127.0.0.1:{port}", "GET", "/")
    runner, _ = await run(port)
    assert await peers.ask(f"127.0.0.1:{port}", "GET", "/") == {"ok": True}
    await runner.cleanup()


async def test_the_offset_of_another_clock_is_within_its_own_error(peers: Peers, serve: Serve) -> None:
    async def clock(request: web.Request) -> web.StreamResponse:
        assert request.path == "/v1/peer/clock"
        received_us = wall_us() + AHEAD_US
        return web.json_response({"received_us": received_us, "answered_us": wall_us() + AHEAD_US})

    began = time.monotonic()
    offset = await peers.clock_offset(await serve(clock))
    took_us = (time.monotonic() - began) * 1e6
    assert abs(offset.ahead_us - AHEAD_US) <= offset.error_us + 1  # readings are whole microseconds
    assert 0 <= offset.error_us <= took_us


async def test_a_clock_that_does_not_answer_has_no_offset(peers: Peers, unused_tcp_port: int) -> None:
    with pytest.raises(NoAnswerError):
        await peers.clock_offset(f"127.0.0.1:{unused_tcp_port}")


async def test_asking_before_opening_is_a_mistake() -> None:
    with pytest.raises(RuntimeError, match=r"open\(\) was not called"):
        await Peers().ask("127.0.0.1:1", "GET", "/")
    await Peers().close()  # and this is none


async def test_connections_that_died_unnoticed_are_replaced(peers: Peers) -> None:
    """A server that answers, keeps the connection, and resets it when it is used again, as a restarted host does."""
    used = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal used
        used += 1
        await reader.readuntil(b"\r\n\r\n")
        if used != 2:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n[]")
            await writer.drain()
            await reader.read(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await peers.ask(address, "GET", "/") == []
        assert await peers.ask(address, "GET", "/") == []
    assert used == 3
