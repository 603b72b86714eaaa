"""The switchover's line: news arrive in order and once, and a broken line says so."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.requests import ClientDisconnect

from bascule.agent import http_errors
from bascule.agent.peers import NoAnswerError, Peers
from bascule.agent.server import make_server, tcp_socket
from bascule.agent.switchover_line import SwitchoverLine, listen
from bascule.errors import Refused

WORD = {"state_file": None, "last_copy": False, "vm_uuid": "u", "epoch": 2}

FRAMES = bytes(range(256))


class Heard:
    """The destination, as far as the line needs it."""

    def __init__(self) -> None:
        self.news: list[Any] = []
        self.hung_up = asyncio.Event()
        self.opened = asyncio.Event()
        self.error: Exception | None = None

    def source_stopped(self, move_id: str, frames: bytes = b"") -> None:
        self.news.append(("stopped", move_id, frames))

    async def take(
        self, move_id: str, state_file: str | None, vm_uuid: str | None, epoch: int | None, *, last_copy: bool
    ) -> dict[str, Any]:
        self.news.append(("take", move_id, state_file, vm_uuid, epoch, last_copy))
        if self.error is not None:
            raise self.error
        return {"decision": "taken", "running": True}


@pytest.fixture
async def heard() -> Heard:
    return Heard()


@pytest.fixture
async def address(heard: Heard) -> AsyncIterator[str]:
    """The real server, with the line's end as its only resource."""
    app = FastAPI()
    http_errors.install(app)

    @app.post("/v1/peer/moves/{move_id}/switchover")
    async def switchover(move_id: str, request: Request) -> dict[str, Any]:
        async def pieces() -> AsyncIterator[bytes]:
            async for piece in request.stream():
                heard.opened.set()
                yield piece

        try:
            return await listen(heard, move_id, pieces())
        except ClientDisconnect:
            heard.hung_up.set()
            return {}

    listener = tcp_socket("127.0.0.1:0")
    server: uvicorn.Server = make_server(app, graceful_s=1)
    serving = asyncio.ensure_future(server.serve([listener]))
    host, port = listener.getsockname()
    yield f"{host}:{port}"
    server.should_exit = True
    await serving


@pytest.fixture
async def line(address: str) -> AsyncIterator[SwitchoverLine]:
    peers = Peers()
    await peers.open()
    made = SwitchoverLine(peers, address, "m1")
    holding = asyncio.ensure_future(made.hold())
    yield made
    holding.cancel()
    await asyncio.wait([holding])
    await peers.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.001)


async def test_the_stop_and_the_word_arrive_as_they_were_given_and_the_answer_comes_back(
    line: SwitchoverLine, heard: Heard
) -> None:
    await heard.opened.wait()
    assert line.standing
    assert heard.news == []
    assert line.stopped(FRAMES)
    await until(lambda: heard.news == [("stopped", "m1", FRAMES)])  # before there is a word
    answer = await line.give_word(WORD)
    assert answer == {"decision": "taken", "running": True}
    assert heard.news == [("stopped", "m1", FRAMES), ("take", "m1", None, "u", 2, False)]


async def test_an_answered_line_takes_no_more_news(line: SwitchoverLine, heard: Heard) -> None:
    await heard.opened.wait()
    await line.give_word(WORD)
    assert not line.standing
    assert not line.stopped()
    with pytest.raises(NoAnswerError):
        await line.give_word(WORD)
    assert len(heard.news) == 1


async def test_a_word_that_is_not_answered_is_not_given_by_the_line_again() -> None:
    """The other host may have lost power with the word in its hands: then the line never breaks, and never answers."""

    class Silent(Peers):
        async def dictate(self, _address: str, _path: str, pieces: AsyncIterator[bytes]) -> Any:
            async for _piece in pieces:
                pass
            await asyncio.Event().wait()

    line = SwitchoverLine(Silent(), "", "m1")
    holding = asyncio.ensure_future(line.hold())
    await until(lambda: line.standing)
    giving = asyncio.ensure_future(line.give_word(WORD))
    await until(lambda: not line.standing)
    giving.cancel()
    with pytest.raises(NoAnswerError):
        await line.give_word(WORD)
    holding.cancel()
    await asyncio.wait([holding, giving])


async def test_an_error_that_the_destination_names_is_that_error(line: SwitchoverLine, heard: Heard) -> None:
    heard.error = Refused("cannot take vm web: it is not offered")
    await heard.opened.wait()
    with pytest.raises(Refused, match="it is not offered"):
        await line.give_word(WORD)
    assert not line.standing


async def test_a_line_that_is_let_go_hangs_up_and_nothing_was_heard(address: str, heard: Heard) -> None:
    peers = Peers()
    await peers.open()
    made = SwitchoverLine(peers, address, "m1")
    holding = asyncio.ensure_future(made.hold())
    await heard.opened.wait()
    holding.cancel()
    async with asyncio.timeout(10):
        await heard.hung_up.wait()
    assert heard.news == []
    assert not made.standing
    with pytest.raises(NoAnswerError):
        await made.give_word(WORD)
    await peers.close()


async def test_nobody_there_is_a_line_that_does_not_stand() -> None:
    listener = tcp_socket("127.0.0.1:0")
    host, port = listener.getsockname()
    listener.close()
    peers = Peers()
    await peers.open()
    made = SwitchoverLine(peers, f"{host}:{port}", "m1")
    await made.hold()
    assert not made.standing
    assert not made.stopped()
    await peers.close()


@pytest.mark.parametrize("cut", [1, 5, 18, 40])
async def test_news_may_come_in_any_pieces(heard: Heard, cut: int) -> None:
    text = b'{"open": true}\n{"stopped": true}\n' + json.dumps({"word": WORD}).encode() + b"\n"

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(text), cut):
            yield text[start : start + cut]

    assert (await listen(heard, "m1", pieces()))["decision"] == "taken"
    assert [news[0] for news in heard.news] == ["stopped", "take"]


async def test_half_a_word_is_none(heard: Heard) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"stopped": true}\n{"word": {"state_file": null, "last_'

    assert await listen(heard, "m1", pieces()) == {}
    assert heard.news == [("stopped", "m1", b"")]
