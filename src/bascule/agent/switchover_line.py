"""The switchover's line: one request to the destination, opened while the copy runs, written when there is news.

    source                                  destination
      | POST .../switchover   {"open"}         |      with the copy: connected, routed, waiting
      |  ...                                   |
      | {"stopped": ...}      ---------------> |      StopNotice
      | {"word": ...}         ---------------> |      TakeAsked
      | <---------------  the answer of a take |

In the blackout each news is one small segment on a connection that stands, to a handler that waits for it; a request
of its own costs either agent about a millisecond of building, parsing and routing.

The line carries nothing that is not also a request of its own (`/stopped`, `/take`), and changes no rule: the word is
written when QEMU has said `completed`, and it is the same word. It is no more reliable than the network: when it is
broken, at whatever moment, or the word is not answered in time, the source asks by the plain request, which the
destination may hear a second time.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from bascule.agent.peers import NoAnswerError, Peers
from bascule.errors import BasculeError


class SwitchoverLine:
    """The source's end of it. Run `hold` in a task; `stopped` and `give_word` are for the switchover."""

    def __init__(self, peers: Peers, peer: str, move_id: str) -> None:
        self._peers = peers
        self._peer = peer
        self._path = f"/v1/peer/moves/{move_id}/switchover"
        self._news: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._standing = False

    @property
    def standing(self) -> bool:
        """Whether news can be written to it, as far as is known."""
        return self._standing and not self._answer.done()

    async def hold(self) -> None:
        """Open the line and keep it until it was answered or is broken. Raises nothing."""
        try:
            answer = await self._peers.dictate(self._peer, self._path, self._pieces())
        except (NoAnswerError, BasculeError) as error:
            self._fail(error)
        except BaseException:
            self._fail(NoAnswerError("the line was closed"))
            raise
        else:
            if not self._answer.done():
                self._answer.set_result(answer)

    def stopped(self, frames: bytes = b"") -> bool:
        """Tell that the VM stands still, with a first batch of frames for it. Return whether the line stood."""
        return self._write({"stopped": True, "frames": b64encode(frames).decode()})

    async def give_word(self, word: Mapping[str, Any]) -> Any:
        """Give the word that the state was sent completely, and return the destination's answer.

        Once: of a host that lost power just then nothing comes any more, not even that the line is broken.
        Raises NoAnswerError when the line is broken, and the error that the other agent named.
        """
        if not self._write({"word": dict(word)}):
            raise NoAnswerError("the line is broken")
        self._news.put_nowait(None)
        self._standing = False
        return await asyncio.shield(self._answer)

    def _write(self, news: dict[str, Any]) -> bool:
        if not self.standing:
            return False
        self._news.put_nowait(json.dumps(news).encode() + b"\n")
        return True

    async def _pieces(self) -> AsyncIterator[bytes]:
        self._standing = True
        yield b'{"open": true}\n'
        while (piece := await self._news.get()) is not None:
            yield piece

    def _fail(self, error: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # it may be that nobody asks


class Destination(Protocol):
    """What the other end of the line does with the news: `bascule.agent.moves.Moves`."""

    def source_stopped(self, move_id: str, frames: bytes = b"") -> None:
        """The VM stands still; `frames` for it have come to the source since."""

    async def take(
        self, move_id: str, state_file: str | None, vm_uuid: str | None, epoch: int | None, *, last_copy: bool
    ) -> dict[str, Any]:
        """The source gives its word; return the decision."""


async def listen(moves: Destination, move_id: str, pieces: AsyncIterator[bytes]) -> dict[str, Any]:
    """The destination's end: act on each news as it comes, and return the answer to the word; empty without one."""
    unread = b""
    async for piece in pieces:
        *lines, unread = (unread + piece).split(b"\n")
        for line in lines:
            news = json.loads(line)
            if "stopped" in news:
                moves.source_stopped(move_id, b64decode(news.get("frames", "")))
            elif "word" in news:
                word = news["word"]
                return await moves.take(
                    move_id, word["state_file"], word["vm_uuid"], word["epoch"], last_copy=word["last_copy"]
                )
    return {}
