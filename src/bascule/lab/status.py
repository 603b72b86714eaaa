"""How a lab is: asked from the kernel and the agents, as one plain dictionary for people and programs alike."""

from __future__ import annotations

from typing import Any

from bascule.errors import Failed
from bascule.lab import links, state
from bascule.lab.locking import is_locked
from bascule.lab.names import Member, namespace
from bascule.lab.namespaces import list_namespaces
from bascule.lab.places import Places
from bascule.lab.state import LabRecord
from bascule.lab.unix_http import NoAnswerError, request

_ANSWER_S = 5.0


def look(lab: str) -> dict[str, Any]:
    """Return the lab's status. A lab without a record that holds is `broken` and has no hosts.

    `state` is `up`, `changing` (being built or removed right now), `broken` or `absent`.
    """
    places = Places(lab)
    record = _read(places)
    ports = links.port_states(lab) if record else {}
    return {
        "name": lab,
        "state": _state(places, record),
        "link": links.rate_text(record.link_bit_s if record else None),
        "shared_directory": str(places.shared),
        "hosts": [_host(places, record, member, ports) for member in record.host_members] if record else [],
        "client": _client(lab, Member.client(), ports) if record else None,
    }


def _read(places: Places) -> LabRecord | None:
    try:
        record = state.read(places.record)
    except Failed:
        return None  # removal does not need it, and whoever looks has to be told of the lab all the same
    return record if record is not None and record.of_this_boot else None


def _state(places: Places, record: LabRecord | None) -> str:
    if is_locked(places.directory):
        return "changing"
    if record is not None and record.complete:
        return "up"
    return "broken" if places.directory.exists() or list_namespaces(places.lab) else "absent"


def _client(lab: str, member: Member, ports: dict[str, str]) -> dict[str, Any]:
    return {
        "namespace": namespace(lab, member.name),
        "address": member.address,
        "address_v6": member.address_v6,
        "link": ports.get(member.name, "missing"),
    }


def _host(places: Places, record: LabRecord, member: Member, ports: dict[str, str]) -> dict[str, Any]:
    process = record.agents.get(member.name)
    alive = process is not None and process.is_alive()
    vms, problem = _ask_for_vms(places, member) if alive else (None, "the agent does not run")
    return {
        "name": member.name,
        **_client(places.lab, member, ports),
        "socket": str(places.host(member.name).socket),
        "agent": {"pid": process.pid if process and alive else None, "alive": alive, "problem": problem},
        "vms": vms,
    }


def _ask_for_vms(places: Places, member: Member) -> tuple[list[dict[str, Any]] | None, str | None]:
    try:
        status, answer = request(places.host(member.name).socket, "GET", "/v1/vms", timeout_s=_ANSWER_S)
    except NoAnswerError as silence:
        return None, f"the agent does not answer: {silence}"
    if status != 200 or not isinstance(answer, list):
        return None, f"the agent answered with HTTP status {status}"
    return [{"name": vm["name"], "state": vm["state"]} for vm in answer], None
