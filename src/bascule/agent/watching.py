"""The part of both APIs that lets a host watch a move made elsewhere; what it means stands in `agent.probes`."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field

from bascule.agent.host import Host
from bascule.agent.probes import ElsewhereProbes


class ProbeRequest(BaseModel):
    """How to ask, whom (as `bascule.network.probe` reads it), and how many times a second."""

    kind: Literal["icmp", "arp", "udp", "tcp", "bulk", "connect", "http"]
    target: str
    hz: float = Field(default=1000, gt=0, le=10_000)


class ProbeFrom(ProbeRequest):
    """`host`: which of the hosts is to ask."""

    host: str


class Window(BaseModel):
    """A move's begin and end in microseconds of the asked host's wall clock."""

    started_us: float
    ended_us: float


class WatchedMove(BaseModel):
    """The move whose outage is wanted: its id, and `started_at` of its report."""

    move_id: str
    started_at: str


def install_peer(app: FastAPI, host: Host) -> None:
    """Let other agents start probes here."""

    @app.post("/v1/peer/probes")
    async def begin_probe(request: ProbeRequest) -> dict[str, Any]:
        """Start a probe, and wait until it has asked for a while."""
        return await host.probes.begin(request.kind, request.target, request.hz)

    @app.post("/v1/peer/probes/{number}/renew")
    async def renew_probe(number: str) -> dict[str, Any]:
        """Prolong a probe's lease."""
        return host.probes.renew(number)

    @app.post("/v1/peer/probes/{number}/outage")
    async def probe_outage(number: str, window: Window) -> dict[str, Any]:
        """What a probe saw of a move."""
        return await host.probes.outage(number, window.started_us, window.ended_us)

    @app.delete("/v1/peer/probes/{number}")
    async def end_probe(number: str) -> dict[str, Any]:
        """End a probe."""
        await host.probes.end(number)
        return {}


def install_operator(app: FastAPI, host: Host) -> None:
    """Let this host's user have others probe."""
    elsewhere = ElsewhereProbes(host)

    @app.post("/v1/probes")
    async def begin_probe(request: ProbeFrom) -> dict[str, Any]:
        """Start a probe on a host, which has to be renewed every few seconds."""
        return await elsewhere.begin(request.host, request.kind, request.target, request.hz)

    @app.post("/v1/probes/{name}/{number}/renew")
    async def renew_probe(name: str, number: str) -> dict[str, Any]:
        """Prolong a probe's lease."""
        return await elsewhere.renew(name, number)

    @app.post("/v1/probes/{name}/{number}/outage")
    async def probe_outage(name: str, number: str, move: WatchedMove) -> dict[str, Any]:
        """What a probe saw of a move that has ended."""
        return await elsewhere.outage(name, number, move.move_id, move.started_at)

    @app.delete("/v1/probes/{name}/{number}")
    async def end_probe(name: str, number: str) -> dict[str, Any]:
        """End a probe."""
        return await elsewhere.end(name, number)
