"""Network namespaces, and the programs `ip`, `bridge` and `tc` that work on them.

One `ip -batch` for each namespace builds a lab of three hosts in about 30 ms, far less than importing a
netlink library takes; and it never touches the namespace of the calling process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bascule.errors import Failed
from bascule.lab.names import split_namespace

DIRECTORY = Path("/run/netns")
_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")  # `su` without a dash leaves them out of root's PATH


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines for one run of `program` (ip, bridge or tc) inside `namespace`, or in the root namespace for None."""

    program: str
    namespace: str | None
    lines: tuple[str, ...]
    purpose: str


def find_program(name: str) -> str | None:
    """Return the path of an administrator's program, also when PATH has no sbin directories."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_SBIN]))


def run_batch(batch: Batch, *, keep_open: Sequence[int] = ()) -> None:
    """Run one batch. Raises `Failed` with the program's own words.

    The descriptors `keep_open` stay open in the child: a lock held through one of them lasts until the child
    has ended, even if this process is killed meanwhile. The child is in a process group of its own, so that
    Ctrl-C reaches only this process, which then decides what to do.
    """
    inside = ["-n", batch.namespace] if batch.namespace else []
    done = subprocess.run(
        [find_program(batch.program) or batch.program, *inside, "-batch", "-"],
        input="\n".join(batch.lines),
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        process_group=0,
        pass_fds=tuple(keep_open),
    )
    if done.returncode != 0:
        where = f" in namespace {batch.namespace}" if batch.namespace else ""
        raise Failed(f"cannot {batch.purpose}{where}: {batch.program} said: {_first_words(done.stderr)}")


def list_namespaces(lab: str | None = None) -> dict[str, list[str]]:
    """Return the namespaces of all labs, or of `lab` only, as lab -> namespaces' names."""
    found: dict[str, list[str]] = {}
    try:
        names = sorted(entry.name for entry in DIRECTORY.iterdir())
    except FileNotFoundError:
        return found
    for name in names:
        parts = split_namespace(name)
        if parts and (lab is None or parts[0] == lab):
            found.setdefault(parts[0], []).append(name)
    return found


def inode(name: str) -> tuple[int, int] | None:
    """Return (device, inode) of a namespace, equal to those of /proc/<pid>/ns/net of every process in it.

    None for a name without a namespace: one that is gone, or whose builder was killed halfway.
    """
    try:
        status = (DIRECTORY / name).stat()
        is_namespace = status.st_dev != DIRECTORY.stat().st_dev
    except FileNotFoundError:
        return None
    return (status.st_dev, status.st_ino) if is_namespace else None


def exec_arguments(name: str, argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` in namespace `name`.

    `ip netns exec` becomes `argv` without another process in between, and gives it a /sys that shows the
    namespace's own interfaces.
    """
    return [find_program("ip") or "ip", "netns", "exec", name, *argv]


def _first_words(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return "; ".join(lines[:3]) or "nothing"
