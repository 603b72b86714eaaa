"""Probes that this host runs beside a move that was asked for elsewhere: a client's view from where clients are.

    bascule migrate --probe-from h3 ─> the source's agent ─ /v1/peer/probes ─> h3's agent ─ ProbeSession ─> the VM

A probe lives on a lease: whoever asked for it renews it every few seconds, and one whose lease has run out is ended.
So neither a killed command nor an agent that is cut off leaves a probe behind; and one whose agent dies ends by itself.

The window of the move is given by this host's wall clock: the source's agent, which knows how far the two clocks are
apart and how sure that is, converts it and says so in the outage (`ElsewhereProbes`).
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.agent.clock import ClockOffset
from bascule.agent.http_errors import NotFound
from bascule.agent.peers import NoAnswerError
from bascule.agent.tasks import TaskKeeper
from bascule.errors import Failed, Refused
from bascule.network.outage import NS_PER_S, monotonic_ns_of
from bascule.network.probe.session import ProbeSession

if TYPE_CHECKING:
    from bascule.agent.host import Host

LEASE_S = 20.0
MOST = 8
MARGIN_S = 0.5  # of the client's time before and after the move
CONNECT_TIMEOUT_S = 5.0
_BEGIN_DEADLINE_S = CONNECT_TIMEOUT_S + 15.0
_US_PER_S = 1e6


@dataclass(slots=True)
class _Running:
    session: ProbeSession
    folder: Path
    kind: str
    begun_ns: int
    lease_until: float  # the event loop's time
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Probes:
    """The probes that this host runs for others."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, _Running] = {}
        self._tasks = TaskKeeper("probes")

    async def begin(self, kind: str, target: str, hz: float) -> dict[str, Any]:
        """Start one, and wait until there is something to compare the move with.

        Raises:
            Refused: it cannot be asked, does not answer, or there are too many.
        """
        if len(self._running) >= MOST:
            raise Refused(f"cannot probe {target} from here: {MOST} probes run already", "end others first")
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="probe-", dir=self._folder))
        session = await asyncio.to_thread(_start, folder / "recording", kind, target, hz)
        number = secrets.token_hex(8)
        running = _Running(session, folder, kind, time.monotonic_ns(), _now() + LEASE_S + _BEGIN_DEADLINE_S)
        self._running[number] = running
        self._tasks.spawn(self._watch_lease(number, running), f"lease of {number}")
        try:
            await asyncio.to_thread(_wait_ready, session, kind, target)
        except BaseException:
            await self.end(number)
            raise
        running.begun_ns = time.monotonic_ns()
        running.lease_until = _now() + LEASE_S
        return {"id": number}

    def renew(self, number: str) -> dict[str, Any]:
        """Prolong the lease. Raises NotFound when it has run out."""
        self._known(number).lease_until = _now() + LEASE_S
        return {}

    async def outage(self, number: str, started_us: float, ended_us: float) -> dict[str, Any]:
        """What it saw from half a second before the move until as long after it; both by this host's wall clock.

        Raises:
            Failed: the probe broke.
        """
        running = self._known(number)
        running.lease_until = _now() + LEASE_S
        origin_ns, end_ns = (monotonic_ns_of(datetime.fromtimestamp(us / _US_PER_S)) for us in (started_us, ended_us))
        margin_ns = round(MARGIN_S * NS_PER_S)
        origin_ns = max(origin_ns, running.begun_ns)
        async with running.busy:
            seen = await asyncio.to_thread(
                running.session.outage,
                running.kind,
                origin_ns - margin_ns,
                max(end_ns, origin_ns) + margin_ns,
                origin_ns=origin_ns,
            )
        return seen.to_dict()

    async def end(self, number: str) -> None:
        """End it; nothing is left of it. Does nothing when it has ended."""
        running = self._running.pop(number, None)
        if running is not None:
            running.over.set()
            async with running.busy:
                await asyncio.to_thread(running.session.close)
                await asyncio.to_thread(shutil.rmtree, running.folder, ignore_errors=True)

    async def close(self) -> None:
        """End all."""
        for number in list(self._running):
            await self.end(number)
        await self._tasks.close()

    def _known(self, number: str) -> _Running:
        running = self._running.get(number)
        if running is None:
            raise NotFound(f"no probe {number} runs here", "it was not renewed in time, or the agent was restarted")
        return running

    async def _watch_lease(self, number: str, running: _Running) -> None:
        while running.lease_until > _now() and not running.over.is_set():
            with suppress(TimeoutError):  # it may have been renewed meanwhile
                async with asyncio.timeout_at(running.lease_until):
                    await running.over.wait()
        await self.end(number)


class ElsewhereProbes:
    """Probes that other hosts run for this one's user; on this host itself as well, where that is wished."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def begin(self, name: str, kind: str, target: str, hz: float) -> dict[str, Any]:
        """Start one on the host `name`. Raises Refused when it cannot be."""
        if name == self._host.name:
            return await self._host.probes.begin(kind, target, hz)
        body = {"kind": kind, "target": target, "hz": hz}
        try:
            answer: dict[str, Any] = await self._ask(name, "POST", "", body, deadline_s=_BEGIN_DEADLINE_S)
        except NoAnswerError as error:
            raise Refused(
                f"cannot probe {target} from host {name}: {error}", "see how the hosts are: bascule hosts"
            ) from error
        return answer

    async def renew(self, name: str, number: str) -> dict[str, Any]:
        """Prolong its lease."""
        if name == self._host.name:
            return self._host.probes.renew(number)
        return await self._answer(name, "POST", f"/{number}/renew", {})

    async def outage(self, name: str, number: str, move_id: str, started_at: str) -> dict[str, Any]:
        """What it saw of the move that began at `started_at` and has ended; say how well the clocks are compared."""
        started_us, now_us = datetime.fromisoformat(started_at).timestamp() * _US_PER_S, time.time_ns() / 1000
        if name == self._host.name:
            seen = await self._host.probes.outage(number, started_us, now_us)
            return seen | {"from_host": name, "clock_error_ms": 0.0}
        try:
            offset = await self._host.peers.clock_offset(self._host.config.address_of(name))
        except NoAnswerError as error:
            raise Failed(f"the outage of move {move_id} is not known: {error}") from error
        body = {"started_us": started_us + offset.ahead_us, "ended_us": now_us + offset.ahead_us}
        seen = await self._answer(name, "POST", f"/{number}/outage", body)
        return with_clock(seen, name, offset)

    async def end(self, name: str, number: str) -> dict[str, Any]:
        """End it; if that host does not answer, its lease will."""
        if name == self._host.name:
            await self._host.probes.end(number)
            return {}
        return await self._answer(name, "DELETE", f"/{number}", None)

    async def _answer(self, name: str, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await self._ask(name, method, path, body, deadline_s=15.0)
        except NoAnswerError as error:
            raise Failed(f"the probe on host {name} is out of reach: {error}") from error
        return answer

    async def _ask(
        self, name: str, method: str, path: str, body: dict[str, Any] | None, *, deadline_s: float
    ) -> dict[str, Any]:
        address = self._host.config.address_of(name)
        answer: dict[str, Any] = await self._host.peers.ask(
            address, method, f"/v1/peer/probes{path}", body, deadline_s=deadline_s
        )
        return answer


def with_clock(seen: dict[str, Any], name: str, offset: ClockOffset) -> dict[str, Any]:
    """Say in an outage from another host whose clock it is by, and how well that is compared with the move's."""
    error_ms = round(offset.error_us / 1000, 4)
    told = (
        f"The client was host {name}: silences and round trips are by its clock alone; where in the move they lie is"
        f" known to {error_ms:.1f} ms."
    )
    return seen | {
        "from_host": name,
        "clock_error_ms": error_ms,
        "note": f"{seen['note']} {told}" if seen["note"] else told,
    }


def _start(recording: Path, kind: str, target: str, hz: float) -> ProbeSession:
    targets: dict[str, Any] = {kind: target}
    return ProbeSession.start(recording, hz=hz, connect_timeout_s=CONNECT_TIMEOUT_S, **targets)


def _wait_ready(session: ProbeSession, kind: str, target: str) -> None:
    session.wait_connected()
    if session.silent:
        raise Refused(
            f"cannot watch the move: {target} does not answer {kind.upper()}",
            "look whether it can be reached from that host; name another way or address, as in: --probe 10.77.0.50",
        )
    session.wait_recorded(time.monotonic_ns() + round(MARGIN_S * NS_PER_S))


def _now() -> float:
    return asyncio.get_running_loop().time()
