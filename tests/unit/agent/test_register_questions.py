"""What the destination's answer over the wire is to the engine, that of an agent of an older version among them."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from bascule.agent.host import Host
from bascule.agent.peers import Peers
from bascule.agent.register_questions import ask_register
from bascule.migration import commands as do
from bascule.migration import facts
from bascule.migration.model import Decision, Move
from bascule.migration.story import Story

STORY = Story(Move("m1", "web", "uuid", "h1", "h2", 2), "2026-03-04T09:12:44+00:00", "tcg", 1024)
TAKEN = {
    "decision": "taken",
    "running": False,
    "given_back": False,
    "loading": False,
    "reason": "QEMU of vm web has ended",
    "times_us": {},
}


@pytest.mark.parametrize(("said", "ended"), [({"ended": True}, True), ({"ended": False}, False), ({}, False)])
async def test_only_who_says_so_never_gives_the_vm_back(said: dict[str, Any], *, ended: bool) -> None:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response(TAKEN | said)

    app = web.Application()
    app.router.add_post("/v1/peer/moves/m1/take", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    peers = Peers()
    await peers.open()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address, port = runner.addresses[0][:2]
        host = cast("Host", SimpleNamespace(peers=peers))
        heard = await ask_register(host, f"{address}:{port}", do.AskTake(last_copy=True), STORY, 1.0)
    finally:
        await peers.close()
        await runner.cleanup()
    assert heard == facts.Answer(Decision.TAKEN, reason="QEMU of vm web has ended", ended=ended)
