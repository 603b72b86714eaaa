"""The wait until both agents have finished or undone everything, and what they say then."""

from __future__ import annotations

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


def settle(lab: Lab, vm: str, hosts: Mapping[Side, str], move_id: str | None) -> tuple[bool, dict[Side, Word]]:
    """Wait until no move is under way on either host; return whether that came to be, and both agents' words."""
    give_up_s = time.monotonic() + _WITHIN_S
    said: dict[Side, Word] = {}
    while True:
        at_rest = True
        for side, host in hosts.items():
            try:
                said[side], rests = _ask(lab, vm, host, move_id)
            except Failed:
                said[side], rests = Word("silent", None), False
            at_rest = at_rest and rests
        if at_rest or time.monotonic() > give_up_s:
            return at_rest, said
        time.sleep(_LOOK_S)


def _ask(lab: Lab, vm: str, host: str, move_id: str | None) -> tuple[Word, bool]:
    vms: list[dict[str, Any]] = lab.request(host, "GET", "/v1/vms", timeout_s=5)
    state = next((each["state"] for each in vms if each["name"] == vm), "absent")
    moves: list[dict[str, Any]] = lab.request(host, "GET", "/v1/moves", timeout_s=5)
    at_rest = state in _AT_REST and all(move["phase"] == "ended" and move["outcome"] for move in moves)
    record = next((move for move in moves if move["id"] == move_id), None)
    facts = ()
    if record is not None:
        facts = tuple(lab.request(host, "GET", f"/v1/moves/{move_id}/facts", timeout_s=5))
    return Word(state, record, facts), at_rest
