"""A definition as JSON, for the journal and between agents, and as TOML, for its user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bascule.vm.definition import Definition, Nic
from bascule.vm.parse import read

_MIB_PER_GIB = 1024
# What a NIC is as JSON that does not say it, as agents wrote it before there was a key for it; and as a file.
_OLDER_NIC: Mapping[str, object] = {"queues": 1, "vhost": False, "udp_segmentation": True}
_UNSAID_NIC: Mapping[str, object] = {"queues": 1, "vhost": True, "udp_segmentation": False}


def to_dict(definition: Definition) -> dict[str, Any]:
    """Plain values for JSON; the keys are the fields' names."""
    fields = asdict(definition)
    return fields | {"disks": list(fields["disks"]), "nics": [_but(nic, _OLDER_NIC) for nic in definition.nics]}


def from_dict(data: Mapping[str, Any], origin: str = "as JSON") -> Definition:
    """The inverse of `to_dict`, checked as strictly as a user's file, since it may come from another agent.

    `origin` says in errors where the data came from. Raises `Refused` with one finding for every mistake, unknown
    keys among them: a newer agent may define VMs that this one cannot build.
    """
    return read(data, origin, new_uuid=None, memory_key="memory_mib")


def to_toml(definition: Definition) -> str:
    """A file that `parse` turns into the same definition, generated values written out."""
    whole_gib, rest = divmod(definition.memory_mib, _MIB_PER_GIB)
    lines = [
        f"name = {_value(definition.name)}",
        f"uuid = {_value(definition.uuid)}",
        f"memory = {_value(f'{definition.memory_mib}MiB' if rest else f'{whole_gib}GiB')}",
        *(
            f"{key} = {_value(getattr(definition, key))}"
            for key in ("vcpus", "cpu", "machine", "accel", "vnc", "rng", "balloon")
        ),
    ]
    if definition.boot is not None:
        lines += _section("[boot]", asdict(definition.boot))
    for disk in definition.disks:
        lines += _section("[[disks]]", asdict(disk))
    for nic in definition.nics:
        lines += _section("[[nics]]", _but(nic, _UNSAID_NIC))
    return "\n".join(lines) + "\n"


def _section(header: str, values: Mapping[str, str | bool | int | None]) -> list[str]:
    return ["", header, *(f"{key} = {_value(value)}" for key, value in values.items() if value is not None)]


def _value(value: str | bool | int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    # All strings of a definition are printable, so only these two characters need escaping.
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _but(nic: Nic, unsaid: Mapping[str, object]) -> dict[str, Any]:
    """Its fields, without those that are as they are where they are not said."""
    return {key: value for key, value in asdict(nic).items() if key not in unsaid or value != unsaid[key]}
