"""Where a lab's files lie.

    /var/lib/bascule/lab/<lab>/      the directory itself is what `locking` locks
        lab.json                     the record (`state`)
        shared/                      disks and saved states, on a path that all hosts see
        hosts/h1/agent.toml  agent.sock  agent.log  state/  run/

QEMU's user has to reach the sockets and disks below, so every directory on the way may be entered by all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("BASCULE_CACHE", "/var/cache/bascule"))  # what can be fetched or built again
ROOT = Path("/var/lib/bascule/lab")


@dataclass(frozen=True, slots=True)
class HostPlaces:
    """The files of one host."""

    directory: Path

    @property
    def config(self) -> Path:
        """The agent's settings."""
        return self.directory / "agent.toml"

    @property
    def socket(self) -> Path:
        """The agent's unix socket, for the CLI."""
        return self.directory / "agent.sock"

    @property
    def log(self) -> Path:
        """What the agent writes to stdout and stderr, over all its lives."""
        return self.directory / "agent.log"

    @property
    def state(self) -> Path:
        """The agent's durable files, the journal among them."""
        return self.directory / "state"

    @property
    def run(self) -> Path:
        """The agent's files of this boot: QEMU's sockets."""
        return self.directory / "run"


@dataclass(frozen=True, slots=True)
class Places:
    """The files of one lab."""

    lab: str
    root: Path = ROOT

    @property
    def directory(self) -> Path:
        """The directory that holds all of the lab."""
        return self.root / self.lab

    @property
    def record(self) -> Path:
        """The lab's record."""
        return self.directory / "lab.json"

    @property
    def shared(self) -> Path:
        """The directory that all hosts share for disks and saved states."""
        return self.directory / "shared"

    @property
    def hosts(self) -> Path:
        """The directory of the hosts' directories."""
        return self.directory / "hosts"

    def host(self, name: str) -> HostPlaces:
        """Return where the files of host `name` lie."""
        return HostPlaces(self.hosts / name)
