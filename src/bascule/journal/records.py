"""The journal's rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bascule.migration.model import Goals, Mode, Move
from bascule.migration.ownership import Offer, Ownership

Side = Literal["source", "destination"]
Accelerator = Literal["kvm", "tcg"]
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VmRecord:
    """A VM that this host owns or owned. `definition` and `process` are plain JSON objects."""

    uuid: str
    name: str
    definition: Json
    owner: str
    here: bool
    epoch: int
    offer: Offer | None = None
    process: Json | None = None
    accelerator: Accelerator | None = None
    wanted: Literal["running", "stopped"] = "stopped"

    @property
    def ownership(self) -> Ownership:
        """What the gate needs to know."""
        return Ownership(self.uuid, self.owner, self.epoch, self.offer)


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """A move that this host takes or took part in."""

    move: Move
    side: Side
    peer: str
    started_at: str
    definition: Json | None = None
    process: Json | None = None
    accelerator: Accelerator | None = None
    state_file: str | None = None
    outcome: str | None = None
    reason: str = ""
    report: Json | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """An operator's word: `owner` has the VM at `epoch`, which `against`, whose agent answers at `peer`, is to hear of.

    `epoch` is the one after that of the move `move_id`, which was not settled.
    """

    vm_uuid: str
    owner: str
    epoch: int
    against: str
    peer: str
    move_id: str
    reason: str
    at: str


@dataclass(frozen=True, slots=True)
class FactRecord:
    """One fact of a move, `at_s` seconds after the move's start on this host's monotonic clock."""

    at_s: float
    name: str
    data: Json = field(default_factory=dict)


def move_to_dict(move: Move) -> dict[str, Any]:
    """Return the move as a JSON object."""
    return {
        "id": move.id,
        "vm": move.vm,
        "vm_uuid": move.vm_uuid,
        "source": move.source,
        "destination": move.destination,
        "epoch": move.epoch,
        "mode": move.mode.value,
        "max_blackout_ms": move.goals.max_blackout_ms,
        "deadline_s": move.goals.deadline_s,
    }


def move_from_dict(data: Json) -> Move:
    """Read what `move_to_dict` made."""
    return Move(
        id=data["id"],
        vm=data["vm"],
        vm_uuid=data["vm_uuid"],
        source=data["source"],
        destination=data["destination"],
        epoch=data["epoch"],
        mode=Mode(data["mode"]),
        goals=Goals(data["max_blackout_ms"], data["deadline_s"]),
    )
