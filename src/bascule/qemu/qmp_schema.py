"""What one QEMU understands, read from its own description (`query-qmp-schema`). Pure.

The names of types in that description are numbers that differ from build to build, so everything is found by way
of commands and members, whose names are stable. Format: QEMU's docs/devel/qapi-code-gen, "Client JSON Protocol
introspection".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Features:
    """Names that this QEMU knows. Nothing that is not among them may be sent to it."""

    commands: Mapping[str, tuple[str, ...]]  # name -> its arguments
    events: frozenset[str]
    migration_capabilities: frozenset[str]
    migration_statuses: frozenset[str]

    @property
    def migration_parameters(self) -> frozenset[str]:
        """What `migrate-set-parameters` takes."""
        return frozenset(self.commands.get("migrate-set-parameters", ()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "commands": {name: list(arguments) for name, arguments in sorted(self.commands.items())},
            "events": sorted(self.events),
            "migration_capabilities": sorted(self.migration_capabilities),
            "migration_statuses": sorted(self.migration_statuses),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(
            commands={str(name): tuple(arguments) for name, arguments in data["commands"].items()},
            events=frozenset(data["events"]),
            migration_capabilities=frozenset(data["migration_capabilities"]),
            migration_statuses=frozenset(data["migration_statuses"]),
        )


def read_schema(schema: Sequence[Mapping[str, Any]]) -> Features:
    """Turn the answer to `query-qmp-schema` into names."""
    entities = {entity["name"]: entity for entity in schema}
    commands = {name: entity for name, entity in entities.items() if entity["meta-type"] == "command"}

    def members(type_name: str) -> dict[str, str]:
        """An object type's members and their types; the member types of an array's elements."""
        entity = entities[type_name]
        if entity["meta-type"] == "array":
            return members(entity["element-type"])
        return {member["name"]: member["type"] for member in entity.get("members", ())}

    def enumeration(type_name: str | None) -> frozenset[str]:
        entity = entities.get(type_name, {}) if type_name is not None else {}
        if "members" in entity:  # since 6.2; "values" stays beside it until some later version
            return frozenset(member["name"] for member in entity["members"])
        return frozenset(entity.get("values", ()))

    def follow(command: str, end: str, *path: str) -> str | None:
        """The type found at `path` from the arguments (`arg-type`) or the answer (`ret-type`) of `command`."""
        if command not in commands:
            return None
        type_name: str | None = commands[command][end]
        for step in path:
            type_name = members(type_name).get(step) if type_name is not None else None
        return type_name

    return Features(
        commands={name: tuple(members(entity["arg-type"])) for name, entity in commands.items()},
        events=frozenset(name for name, entity in entities.items() if entity["meta-type"] == "event"),
        migration_capabilities=enumeration(
            follow("migrate-set-capabilities", "arg-type", "capabilities", "capability")
        ),
        migration_statuses=enumeration(follow("query-migrate", "ret-type", "status")),
    )
