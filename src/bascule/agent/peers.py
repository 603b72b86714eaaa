"""The other agents, as this one reaches them over HTTP.

Every request has a deadline, and its failure says which of two things happened: the other agent *answered* with an
error, or there was *no answer*, after which nothing is known of the request.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import aiohttp

from bascule.agent.clock import ClockOffset, Exchange, best_of, wall_us
from bascule.errors import BasculeError, Failed, Finding, Refused, Unknown

KEPT_CONNECTIONS = 3  # as many may have died unnoticed
LOST = (errno.ECONNRESET, errno.EPIPE)
KINDS: dict[str, type[BasculeError]] = {"refused": Refused, "failed": Failed, "unknown": Unknown}


class NoAnswerError(Exception):
    """The other agent could not be reached, or did not answer in time."""


class ConnectionLostError(NoAnswerError):
    """A connection that had stood was not there any more."""


class Peers:
    """Connections to the other agents, kept open between requests."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Get ready to ask."""
        connector = aiohttp.TCPConnector(keepalive_timeout=60, limit=0)
        self._session = aiohttp.ClientSession(connector=connector)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        address: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        deadline_s: float = 5.0,
    ) -> Any:
        """Ask the agent at `address` ("10.0.0.2:7440") and return its JSON answer.

        What is asked may be asked again: where a connection breaks, it is. Raises NoAnswerError when there was no
        answer, and the error that the other agent named otherwise.
        """
        try:
            async with asyncio.timeout(deadline_s):
                for _ in range(KEPT_CONNECTIONS):
                    with suppress(ConnectionLostError):  # most likely kept since before the other agent's restart
                        return await self._send(address, method, path, json=body)
                return await self._send(address, method, path, json=body)
        except TimeoutError:
            raise NoAnswerError(f"the agent at {address} did not answer within {deadline_s:g} s") from None

    async def dictate(self, address: str, path: str, lines: AsyncIterator[bytes]) -> Any:
        """POST what `lines` gives, each piece as soon as it comes, and return the JSON answer. No deadline.

        The request is at the other agent with the first piece; what follows needs no more than one segment each.
        Raises as `ask`.
        """
        return await self._send(address, "POST", path, data=lines, timeout=aiohttp.ClientTimeout())

    async def _send(self, address: str, method: str, path: str, **what: Any) -> Any:
        if self._session is None:
            raise RuntimeError("open() was not called")
        try:
            async with self._session.request(method, f"http://{address}{path}", **what) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, TimeoutError):
                raise
            lost = isinstance(error, aiohttp.ServerDisconnectedError) or getattr(error, "errno", None) in LOST
            kind = ConnectionLostError if lost else NoAnswerError
            raise kind(f"the agent at {address} could not be asked: {error}") from error
        if response.status >= 400:
            raise _error_in(answer, address, response.status)
        return answer

    async def hand(self, address: str, path: str, batch: bytes, *, deadline_s: float) -> Any:
        """POST bytes and return the JSON answer. Raises as `ask`."""
        if self._session is None:
            raise RuntimeError("open() was not called")
        try:
            async with (
                asyncio.timeout(deadline_s),
                self._session.post(f"http://{address}{path}", data=batch) as response,
            ):
                answer = await response.json(content_type=None)
        except TimeoutError:
            raise NoAnswerError(f"the agent at {address} did not answer within {deadline_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswerError(f"the agent at {address} could not be asked: {error}") from error
        if response.status >= 400:
            raise _error_in(answer, address, response.status)
        return answer

    async def clock_offset(self, address: str, exchanges: int = 8) -> ClockOffset:
        """Estimate how far the other host's wall clock is ahead. Raises NoAnswerError."""
        seen = []
        for _ in range(exchanges):
            sent_us = wall_us()
            answer = await self.ask(address, "GET", "/v1/peer/clock")
            seen.append(Exchange(sent_us, answer["received_us"], answer["answered_us"], wall_us()))
        return best_of(seen)


def _error_in(answer: Any, address: str, status: int) -> BasculeError:
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return Failed(f"the agent at {address} answered with HTTP status {status}: {answer}")
    findings = [
        Finding(f.get("subject", ""), f.get("problem", ""), f.get("remedy", "")) for f in error.get("findings", [])
    ]
    kind = KINDS.get(error.get("kind", ""), Failed)
    return kind(error.get("message", ""), error.get("remedy", ""), findings)
