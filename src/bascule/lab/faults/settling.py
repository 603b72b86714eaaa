"""The wait until both agents have finished or undone everything, and what they say then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from bascule.errors import Failed
from bascule.lab.faults.case import Side
from bascule.lab.faults.evidence import Word
from bascule.lab.laboratory import Lab

_WITHIN_S = 90.0
_LOOK_S = 0.1
_AT_REST = ("running", "stopped", "absent")
_HELD_S = 3.0  # so long nothing changes but what an operator does
_FOR_AN_OPERATOR = ("unsettled", "deciding")


def settle(lab: Lab, vm: str, hosts: Mapping[Side, str], move_id: str | None) -> tuple[bool, dict[Side, Word]]:
    """Wait until no move is under way on either host; return whether that came to be, and both agents' words.

    A destination that has taken a VM whose QEMU then ended waits for an operator to start it again, and its source
    waits for that while it keeps its paused copy: this is a rest as well, which `waits_for_start` tells.
    """
    give_up_s = time.monotonic() + _WITHIN_S
    held_since_s: float | None = None
    said: dict[Side, Word] = {}
    while True:
        at_rest = True
        for side, host in hosts.items():
            try:
                said[side], rests = _ask(lab, vm, host, move_id)
            except Failed:
                said[side], rests = Word("silent", None), False
            at_rest = at_rest and rests
        now_s = time.monotonic()
        held_since_s = (held_since_s or now_s) if waits_for_start(said) else None
        held = held_since_s is not None and now_s - held_since_s > _HELD_S
        if at_rest or held or now_s > give_up_s:
            return at_rest or held, said
        time.sleep(_LOOK_S)


def waits_for_start(said: Mapping[Side, Word]) -> bool:
    """Whether the VM was taken, has ended, and is the operator's to start.

    A source that has no copy either lets go of the VM by itself, and is waited for.
    """
    here, there = said[Side.SOURCE], said[Side.DESTINATION]
    waits = here.phase == "ended" or (here.phase in _FOR_AN_OPERATOR and here.state == "moving-out")
    return there.state == "stopped" and there.phase == "starting" and waits


def _ask(lab: Lab, vm: str, host: str, move_id: str | None) -> tuple[Word, bool]:
    vms: list[dict[str, Any]] = lab.request(host, "GET", "/v1/vms", timeout_s=5)
    state = next((each["state"] for each in vms if each["name"] == vm), "absent")
    moves: list[dict[str, Any]] = lab.request(host, "GET", "/v1/moves", timeout_s=5)
    at_rest = state in _AT_REST and all(move["phase"] == "ended" and move["outcome"] for move in moves)
    record = next((move for move in moves if move["id"] == move_id), None)
    status = ""
    with contextlib.suppress(Failed):
        status = lab.request(host, "GET", f"/v1/vms/{vm}/status", timeout_s=5)["summary"]
    if record is None:
        return Word(state, None, status=status), at_rest
    facts = tuple(lab.request(host, "GET", f"/v1/moves/{move_id}/facts", timeout_s=5))
    report = None
    if record["side"] == "source" and record["phase"] == "ended":
        report = lab.request(host, "GET", f"/v1/moves/{move_id}/report", timeout_s=5)
    return Word(state, record, facts, report, status), at_rest
