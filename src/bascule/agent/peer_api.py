"""The API between agents: pre-flight, preparation, and the questions about the decision. All of it under /v1/peer.

Each request may be repeated: a lost answer is asked for again, and the register sees to it that the answer is the same.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from bascule import __version__
from bascule.agent import http_errors, watching
from bascule.agent.clock import wall_us
from bascule.agent.host import Host
from bascule.agent.late_answers import offer_standing
from bascule.agent.look_back import FIRST_FRAME_PATIENCE_S
from bascule.agent.switchover_line import listen
from bascule.journal.records import Claim
from bascule.network.tap import DEFAULT_QUEUE_FRAMES, LONGEST_QUEUE_FRAMES


class Preparation(BaseModel):
    """A move that is about to begin: the move, the VM's definition, and the accelerator that it runs on.

    `network`: the guest's addresses, as the source has learned them; see `bascule.agent.vm_network`. `queue_frames`:
    how many frames its taps should hold while it stands still.
    """

    move: dict[str, Any]
    definition: dict[str, Any]
    accelerator: Literal["kvm", "tcg"]
    network: list[dict[str, Any]] | None = None
    queue_frames: int = Field(DEFAULT_QUEUE_FRAMES, ge=1, le=LONGEST_QUEUE_FRAMES)


class Addresses(BaseModel):
    """What the source has learned of the guest's addresses since; `network` as in `Preparation`."""

    network: list[dict[str, Any]]


class ArrivalQuestion(BaseModel):
    """The source asks what has been seen of the VM's frames. `still_here`: it still gets some itself."""

    vm_uuid: str
    still_here: bool = False


class Word(BaseModel):
    """The source's word that the state was sent completely; for a Quick Migration the saved state's path.

    `last_copy`: the source's QEMU is dead. `vm_uuid` and `epoch` name the register.
    """

    state_file: str | None = None
    last_copy: bool = False
    vm_uuid: str | None = None
    epoch: int | None = None


class ClaimBody(BaseModel):
    """An operator's word for the host that sends this; see `bascule.journal.records.Claim`."""

    vm_uuid: str
    owner: str
    epoch: int
    against: str
    peer: str
    move_id: str
    reason: str
    at: str


class Refusal(BaseModel):
    """The source's wish for `refused`; it names the register, so that it can be written for a move unknown here.

    `clean`: answer once nothing of the move is left here, if that does not take long.
    """

    reason: str
    vm_uuid: str
    epoch: int
    clean: bool = False


class CheckRequest(BaseModel):
    """What the destination needs to know for its pre-flight."""

    move: dict[str, Any]
    definition: dict[str, Any]
    accelerator: Literal["kvm", "tcg"]
    facts: dict[str, Any]


def make_peer_api(host: Host) -> FastAPI:
    """Build the API for the other agents."""
    app = FastAPI(title="Bascule, between agents", version=__version__)
    http_errors.install(app)

    watching.install_peer(app, host)

    @app.get("/v1/peer/clock")
    async def clock() -> dict[str, int]:
        """Read this host's wall clock, in microseconds since the epoch."""
        received_us = wall_us()
        return {"received_us": received_us, "answered_us": wall_us()}

    @app.get("/v1/peer/host")
    async def about() -> dict[str, Any]:
        """Tell what this host is and can do."""
        return await host.about()

    @app.post("/v1/peer/check")
    async def check(request: CheckRequest) -> dict[str, Any]:
        """Check what only the destination can see. Nothing changes."""
        findings = await host.preflight.check_incoming(request.model_dump())
        return {
            "findings": [http_errors.finding_to_dict(finding) for finding in findings],
            "wall_s": wall_us() / 1e6,
        }

    @app.post("/v1/peer/moves")
    async def prepare(request: Preparation) -> dict[str, Any]:
        """Start a paused QEMU and return the address where it waits for the state.

        `tells_numbers`: frames that are sent again are told by their numbers, and given once.
        """
        return {"address": await host.moves.prepare(request.model_dump()), "tells_numbers": True}

    @app.post("/v1/peer/moves/{move_id}/stopped")
    async def stopped(move_id: str, request: Request) -> dict[str, str]:
        """The VM stands still on the source: frames for it may be drawn here. The body: a first batch of them."""
        host.moves.source_stopped(move_id, await request.body())
        return {}

    @app.put("/v1/peer/moves/{move_id}/addresses")
    async def addresses(move_id: str, learned: Addresses) -> dict[str, str]:
        """The guest's addresses, shortly before it stops: they are announced when it does."""
        host.moves.learn_addresses(move_id, learned.network)
        return {}

    @app.post("/v1/peer/moves/{move_id}/arrival")
    async def arrival(move_id: str, question: ArrivalQuestion) -> dict[str, Any]:
        """Tell what was seen of the VM's frames since it runs here: as soon as they arrive, or after some seconds."""
        return await host.moves.arrival(move_id, question.vm_uuid, still_there=question.still_here)

    @app.post("/v1/peer/moves/{move_id}/switchover")
    async def switchover(move_id: str, request: Request) -> dict[str, Any]:
        """Hear of the switchover as it happens, by JSON lines in the body; answers as `take`. See `switchover_line`."""
        try:
            return await listen(host.moves, move_id, request.stream())
        except ClientDisconnect:  # nobody is there to answer
            return {}

    @app.post("/v1/peer/moves/{move_id}/frames")
    async def frames(move_id: str, request: Request, *, again: bool = False, last: bool = False) -> dict[str, Any]:
        """Frames for the VM that came to the other host. The body: see `network.handover.parcel`."""
        return host.moves.frames.came(move_id, await request.body(), again=again, last=last)

    @app.post("/v1/peer/moves/{move_id}/take")
    async def take(move_id: str, word: Word) -> dict[str, Any]:
        """Take the VM. Answers once the register holds a value and, for `taken`, the VM runs; or after some seconds."""
        return await host.moves.take(move_id, word.state_file, word.vm_uuid, word.epoch, last_copy=word.last_copy)

    @app.get("/v1/peer/moves/{move_id}/first-frame")
    async def first_frame(move_id: str) -> dict[str, int | None]:
        """When the VM's first frame came out of its tap here, by this wall clock in us; null if none came soon."""
        return {"at_us": await host.moves.first_frame_us(move_id, FIRST_FRAME_PATIENCE_S)}

    @app.post("/v1/peer/moves/{move_id}/refuse")
    async def refuse(move_id: str, refusal: Refusal) -> dict[str, Any]:
        """Write `refused` unless `taken` is written. Answers with what the register holds."""
        return await host.moves.refuse(move_id, refusal.reason, refusal.vm_uuid, refusal.epoch, clean=refusal.clean)

    @app.get("/v1/peer/moves/{move_id}/offer")
    async def offer(move_id: str, vm_uuid: str | None = None) -> dict[str, Any]:
        """Tell a destination whether the offer of this move stands, and whether an operator decided otherwise."""
        return await offer_standing(host, move_id, vm_uuid)

    @app.put("/v1/peer/claims")
    async def claim(body: ClaimBody) -> dict[str, Any]:
        """An operator gave a VM to the host that asks: stand down, unless this host has as good a claim."""
        return await host.claims.stand_down(Claim(**body.model_dump()))

    return app
