"""The operators' API, on the unix socket: VMs, moves, hosts. What the command line does, it does through this."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from bascule import __version__
from bascule.agent import http_errors, recover, status, watching
from bascule.agent.catalogue import Catalogue
from bascule.agent.host import Host
from bascule.agent.http_errors import NotFound
from bascule.agent.vitals import vitals
from bascule.migration.model import Goals, Mode


class NewVm(BaseModel):
    """A VM definition: the TOML text, and where it came from, for messages."""

    toml: str
    origin: str = "the definition"


class StartOptions(BaseModel):
    """`paused`: start QEMU, but let no vCPU run yet."""

    paused: bool = False


class StopOptions(BaseModel):
    """`force` ends QEMU at once; otherwise the guest has `timeout_s` to shut itself down."""

    force: bool = False
    timeout_s: float = Field(default=60, gt=0, le=86400)


class Recovery(BaseModel):
    """`run_here`: let the VM run on this host by an operator's word that host `confirmed_down` is down."""

    run_here: bool = False
    confirmed_down: str | None = None


class MoveRequest(BaseModel):
    """A move. `max_blackout_ms` is a promise; `deadline_s` is for the copy."""

    vm: str
    destination: str
    mode: Literal["live", "quick"] = "live"
    max_blackout_ms: float = Field(default=100, gt=0, le=3_600_000)
    deadline_s: float = Field(default=600, gt=0, le=604_800)

    @property
    def goals(self) -> Goals:
        """The goals as the engine knows them."""
        return Goals(self.max_blackout_ms, self.deadline_s)


def make_operator_api(host: Host, catalogue: Catalogue) -> FastAPI:
    """Build the API for operators."""
    app = FastAPI(
        title="Bascule", version=__version__, description="Live migration for plain QEMU/KVM hosts: one host's agent."
    )
    http_errors.install(app)

    @app.get("/v1/host")
    async def this_host() -> dict[str, Any]:
        """Describe this host."""
        return await host.about()

    @app.get("/v1/agent")
    async def agent() -> dict[str, Any]:
        """Say how the agent itself is: its memory, descriptors, threads, tasks, journal."""
        return await vitals(host)

    @app.get("/v1/hosts")
    async def hosts() -> list[dict[str, Any]]:
        """Describe all hosts that this one knows, each asked now."""
        return await catalogue.hosts()

    @app.post("/v1/vms", status_code=201)
    async def define(vm: NewVm) -> dict[str, Any]:
        """Define a VM on this host."""
        return await catalogue.define(vm.toml, vm.origin)

    @app.get("/v1/vms")
    async def vms() -> list[dict[str, Any]]:
        """List the VMs of this host."""
        return await catalogue.vms()

    @app.get("/v1/vms/{name}")
    async def vm(name: str) -> dict[str, Any]:
        """Describe one VM."""
        return await catalogue.vm(name)

    @app.delete("/v1/vms/{name}")
    async def delete(name: str) -> dict[str, Any]:
        """Forget a stopped VM. Its disks stay."""
        await catalogue.delete(name)
        return {}

    @app.post("/v1/vms/{name}/start")
    async def start(name: str, options: StartOptions | None = None) -> dict[str, Any]:
        """Start a VM."""
        return await catalogue.start(name, paused=options.paused if options else False)

    @app.post("/v1/vms/{name}/stop")
    async def stop(name: str, options: StopOptions | None = None) -> dict[str, Any]:
        """Stop a VM."""
        options = options or StopOptions()
        return await catalogue.stop(name, force=options.force, timeout_s=options.timeout_s)

    @app.get("/v1/status")
    async def overview() -> list[dict[str, Any]]:
        """Say of every VM that is here, comes in or goes out, what `status` says of one."""
        return await status.overview(host)

    @app.get("/v1/vms/{name}/status")
    async def vm_status(name: str) -> dict[str, Any]:
        """Say what is known of a VM here, what would settle what is open, and what each choice risks."""
        return await status.status(host, name)

    @app.post("/v1/vms/{name}/recover")
    async def vm_recover(name: str, recovery: Recovery | None = None) -> dict[str, Any]:
        """Try again what is open of a VM, or let an operator decide. Answers as `status` does, after some seconds."""
        wish = recovery or Recovery()
        return await recover.recover(host, name, run_here=wish.run_here, confirmed_down=wish.confirmed_down)

    _add_moves(app, host, catalogue)

    @app.get("/{path:path}", include_in_schema=False)
    async def nothing(path: str) -> JSONResponse:
        """Say that there is no such thing."""
        return JSONResponse(http_errors.body_of(NotFound(f"the agent has nothing at /{path}")), 404)

    return app


def _add_moves(app: FastAPI, host: Host, catalogue: Catalogue) -> None:
    """Add the routes for moves."""

    @app.post("/v1/plans")
    async def plan(request: MoveRequest) -> dict[str, Any]:
        """Run the pre-flight alone, and forecast the move. Nothing changes."""
        mode = Mode(request.mode)
        findings, forecast = await host.moves.plan(request.vm, request.destination, mode, request.goals)
        return {
            "ok": not findings,
            "findings": [http_errors.finding_to_dict(finding) for finding in findings],
            "forecast": {"total_s": forecast.total_s, "blackout_ms": forecast.blackout_ms, "fits": forecast.fits}
            if forecast
            else None,
        }

    @app.post("/v1/moves", status_code=202)
    async def begin(request: MoveRequest) -> dict[str, str]:
        """Begin a move. Answers once its pre-flight is through."""
        move = await host.moves.begin(request.vm, request.destination, Mode(request.mode), request.goals)
        return {"id": move.move.id}

    @app.get("/v1/moves")
    async def moves() -> list[dict[str, Any]]:
        """List the moves that this host took part in, newest first."""
        return await host.moves.summaries()

    @app.get("/v1/moves/{move_id}")
    async def one_move(move_id: str) -> dict[str, Any]:
        """Describe one move in short."""
        return await catalogue.move(move_id)

    @app.get("/v1/moves/{move_id}/report")
    async def report(move_id: str) -> dict[str, Any]:
        """Return the report of a move that has ended."""
        return await catalogue.report(move_id)

    @app.get("/v1/moves/{move_id}/facts")
    async def facts(move_id: str) -> list[dict[str, Any]]:
        """Return everything that was recorded of a move on this host, in order, so that it can be replayed."""
        return await catalogue.facts(move_id)

    @app.put("/v1/moves/{move_id}/outage")
    async def outage(move_id: str, outage: dict[str, Any]) -> dict[str, Any]:
        """Put what a probe saw into a move's report."""
        return await catalogue.set_outage(move_id, outage)

    watching.install_operator(app, host)

    @app.post("/v1/moves/{move_id}/cancel")
    async def cancel(move_id: str) -> dict[str, Any]:
        """Cancel a move by its id or its VM's name."""
        accepted, message = await host.moves.cancel(move_id, "the user")
        return {"accepted": accepted, "message": message}

    @app.get("/v1/moves/{move_id}/events", response_class=StreamingResponse)
    async def events(move_id: str) -> StreamingResponse:
        """Follow a move as server-sent events: `progress` many times, `end` with the report last."""
        outgoing = host.moves.outgoing(move_id)
        if outgoing is not None:
            return _stream(outgoing.watchers.follow())
        return _stream(_only_end(await catalogue.report(move_id)))


async def _only_end(report: dict[str, Any]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield "end", report


def _stream(events: AsyncIterator[tuple[str, dict[str, Any]]]) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        async for kind, data in events:
            yield f"event: {kind}\ndata: {json.dumps(data)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-store"})
