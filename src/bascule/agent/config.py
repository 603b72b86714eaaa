"""The agent's settings: one TOML file, every mistake in it reported at once."""

from __future__ import annotations

import pwd
import socket
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bascule.errors import Finding, Refused
from bascule.journal.journal import KEPT_MOVES

DEFAULT_PORT = 7440
FEWEST_MOVES, MOST_MOVES = 20, 100_000  # a forecast learns from some tens


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """How one agent runs.

    `hosts` maps the name of every host, this one too, to `address:port` of its agent. `migration_address` is where
    this host's QEMU processes listen for incoming VMs. `qemu_user` is a user's name or a number; QEMU runs as it.
    `cache_directory` holds what was found out about this machine and can be found out again; agents may share it.
    `keep_moves`: of how many moves, the newest ones, the journal keeps facts and reports.
    """

    name: str
    socket: Path = Path("/run/bascule/agent.sock")
    state_directory: Path = Path("/var/lib/bascule")
    runtime_directory: Path = Path("/run/bascule")
    cache_directory: Path = Path("/var/cache/bascule")
    hosts: dict[str, str] = field(default_factory=dict)
    migration_address: str = "0.0.0.0"  # noqa: S104 - an administrator narrows it down to the migration network
    migration_ports: tuple[int, int] = (49152, 49215)
    qemu_binary: str = "qemu-system-x86_64"
    qemu_user: str | int = "bascule-qemu"
    shared_directories: tuple[Path, ...] = ()
    proof_kernel: Path | None = None
    keep_moves: int = KEPT_MOVES

    @property
    def journal_path(self) -> Path:
        """Where the journal lies."""
        return self.state_directory / "journal.db"

    @property
    def uid(self) -> int:
        """The numeric user that QEMU runs as."""
        return self.qemu_user if isinstance(self.qemu_user, int) else pwd.getpwnam(self.qemu_user).pw_uid

    @property
    def gid(self) -> int:
        """The numeric group that QEMU runs as."""
        return self.qemu_user if isinstance(self.qemu_user, int) else pwd.getpwnam(self.qemu_user).pw_gid

    def address_of(self, host: str) -> str:
        """Return the `address:port` of a host's agent. Raises Refused for a host that is not in `hosts`."""
        address = self.hosts.get(host)
        if address is None:
            known = ", ".join(sorted(self.hosts)) or "none"
            raise Refused(
                f"host {host} is not known to host {self.name}",
                f"known hosts: {known}; add others under [hosts] in the agent's configuration and restart the agent",
            )
        return address if ":" in address else f"{address}:{DEFAULT_PORT}"


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("has to be an absolute path in quotes")
    return Path(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("has to be a text in quotes")
    return value


def _hosts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) and v for v in value.values()):
        raise ValueError('has to be a table of names and addresses, such as h2 = "10.0.0.2:7440"')
    return dict(value)


def _ports(value: Any) -> tuple[int, int]:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(port, int) and 0 < port < 65536 for port in value)
        or value[0] > value[1]
    ):
        raise ValueError("has to be two ports, the lower one first, such as [49152, 49215]")
    return (value[0], value[1])


def _user(value: Any) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("has to be a user's name or number")
    if isinstance(value, str):
        try:
            pwd.getpwnam(value)
        except KeyError:
            raise ValueError(f"names no user of this host; make one: useradd --system {value}") from None
    return value


def _paths(value: Any) -> tuple[Path, ...]:
    if not isinstance(value, list):
        raise ValueError("has to be a list of absolute paths")
    return tuple(_path(item) for item in value)


def _keep_moves(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not FEWEST_MOVES <= value <= MOST_MOVES:
        raise ValueError(f"has to be a number from {FEWEST_MOVES} to {MOST_MOVES}")
    return value


READERS: dict[str, Callable[[Any], Any]] = {
    "name": _text,
    "socket": _path,
    "state_directory": _path,
    "runtime_directory": _path,
    "cache_directory": _path,
    "hosts": _hosts,
    "migration_address": _text,
    "migration_ports": _ports,
    "qemu_binary": _text,
    "qemu_user": _user,
    "shared_directories": _paths,
    "proof_kernel": _path,
    "keep_moves": _keep_moves,
}


def load(path: Path) -> AgentConfig:
    """Read the settings. Raises Refused with every mistake in the file."""
    attempted = f"read the agent's configuration {path}"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"cannot {attempted}: {error.strerror}", "give the right file with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refused(f"cannot {attempted}: it is not TOML: {error}") from error
    findings = []
    values: dict[str, Any] = {"name": socket.gethostname().split(".")[0]}
    for key, value in data.items():
        reader = READERS.get(key)
        if reader is None:
            findings.append(Finding(key, "is not a setting", f"settings are {', '.join(READERS)}"))
            continue
        try:
            values[key] = reader(value)
        except ValueError as error:
            findings.append(Finding(key, str(error)))
    if findings:
        raise Refused.from_findings(attempted, findings)
    return AgentConfig(**values)
