"""Which process is it: a record that tells one QEMU from every other process, before and after.

A pid alone is reused. The pid together with the start time that the kernel keeps for it (clock ticks since boot)
and the boot's id names one process for ever, so an agent that comes back after days touches the right one or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from bascule.qemu.command_line import LaunchPaths

_PROC = Path("/proc")
_DEAD_STATES = "ZXx"  # a zombie runs no vCPU and holds no lock: its files are closed


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One QEMU process, as the journal keeps it."""

    pid: int
    start_ticks: int
    boot_id: str
    directory: str
    argv: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"argv": list(self.argv)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(
            pid=int(data["pid"]),
            start_ticks=int(data["start_ticks"]),
            boot_id=str(data["boot_id"]),
            directory=str(data["directory"]),
            argv=tuple(data["argv"]),
        )

    def is_alive(self) -> bool:
        """Whether this very process still exists and is no zombie."""
        return self.boot_id == boot_id() and start_ticks(self.pid) == self.start_ticks


def start_ticks(pid: int) -> int | None:
    """When `pid` was started, in clock ticks since boot; None if no live process has this pid (proc(5))."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in _DEAD_STATES else int(fields[19])


@cache
def boot_id() -> str:
    """The kernel's random id of this boot."""
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def find_in(directory: str) -> list[ProcessRecord]:
    """Live QEMU processes whose `-pidfile` lies in `directory`, found without any record of them.

    For the agent that died between starting QEMU and writing its record down: the process must not be forgotten.
    """
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            argv = tuple((entry / "cmdline").read_text(errors="surrogateescape").split("\0")[:-1])
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone meanwhile
        if _pidfile_of(argv) != LaunchPaths(directory).pidfile:
            continue
        ticks = start_ticks(int(entry.name))
        if ticks is not None:
            found.append(ProcessRecord(int(entry.name), ticks, boot_id(), directory, argv))
    return found


def _pidfile_of(argv: tuple[str, ...]) -> str | None:
    return next((value for option, value in pairwise(argv) if option == "-pidfile"), None)
