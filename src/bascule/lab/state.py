"""A lab's record: what was asked for, and which process is whose agent. Removal can do without it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bascule.errors import Failed
from bascule.lab.names import Member
from bascule.lab.processes import Process
from bascule.qemu.process_record import boot_id

SCHEMA = 1


@dataclass(slots=True)
class LabRecord:
    """What one lab is made of.

    `complete` turns true when every agent has answered; a record without it is what a broken-off `up` left.
    `boot_id` tells a lab of this boot from what a restart of the machine left of it.
    """

    name: str
    hosts: int
    link_bit_s: int | None
    complete: bool = False
    boot_id: str = field(default_factory=boot_id)
    agent_commands: dict[str, list[str]] = field(default_factory=dict)
    agents: dict[str, Process] = field(default_factory=dict)

    @property
    def host_members(self) -> list[Member]:
        """The hosts, in order."""
        return [Member.host(number) for number in range(1, self.hosts + 1)]

    @property
    def members(self) -> list[Member]:
        """The hosts and the client."""
        return [*self.host_members, Member.client()]

    @property
    def of_this_boot(self) -> bool:
        """Whether the machine has not been restarted since."""
        return self.boot_id == boot_id()

    def live_processes(self) -> list[Process]:
        """Return the recorded processes that may still exist: none after a restart of the machine."""
        return list(self.agents.values()) if self.of_this_boot else []

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "hosts": self.hosts,
            "link_bit_s": self.link_bit_s,
            "complete": self.complete,
            "boot_id": self.boot_id,
            "agent_commands": self.agent_commands,
            "agents": {name: [agent.pid, agent.start_ticks] for name, agent in self.agents.items()},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Build the inverse of `to_dict`. Raises ValueError, KeyError or TypeError for anything else."""
        if data["schema"] != SCHEMA:
            raise ValueError(f"its schema is {data['schema']}, this version of Bascule knows {SCHEMA}")
        return cls(
            name=data["name"],
            hosts=int(data["hosts"]),
            link_bit_s=data["link_bit_s"],
            complete=bool(data["complete"]),
            boot_id=data["boot_id"],
            agent_commands={name: list(argv) for name, argv in data["agent_commands"].items()},
            agents={name: Process(int(pid), int(ticks)) for name, (pid, ticks) in data["agents"].items()},
        )


def write(path: Path, record: LabRecord) -> None:
    """Replace the record at once: a reader sees the old one or the new one."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(record.to_dict(), indent=2) + "\n")
    new.replace(path)


def read(path: Path) -> LabRecord | None:
    """Return the record; None if there is none. Raises `Failed` for one that cannot be read."""
    try:
        return LabRecord.from_dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failed(
            f"cannot read the lab's record {path}: {error}", f"remove the lab: bascule lab down {path.parent.name}"
        ) from error
