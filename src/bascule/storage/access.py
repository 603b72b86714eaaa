"""What QEMU's unprivileged user may do with a path, found out by trying it as that user.

Mode bits alone do not tell: there are access control lists, read-only mounts, directories on the way that may not be
entered, and file servers that map root to nobody. A child process becomes the user and asks the kernel.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bascule.errors import BasculeError, Failed, Finding

PATIENCE_S = 10.0

# One line for each path, with a letter for each thing that is so. Asking changes nothing, not even a time of access.
_LOOK = """
for path do
  seen=
  [ -e "$path" ] && seen=${seen}e
  [ -f "$path" ] && seen=${seen}f
  [ -b "$path" ] && seen=${seen}b
  [ -d "$path" ] && seen=${seen}d
  [ -r "$path" ] && seen=${seen}r
  [ -w "$path" ] && seen=${seen}w
  [ -x "$path" ] && seen=${seen}x
  echo "$seen"
done
"""


@dataclass(frozen=True, slots=True)
class RunAs:
    """The user that QEMU runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def __str__(self) -> str:
        try:
            return f"user {pwd.getpwuid(self.uid).pw_name} (uid {self.uid})"
        except KeyError:
            return f"user {self.uid}"


@dataclass(frozen=True, slots=True)
class Access:
    """What a user sees at a path. Where nothing is seen, everything is False."""

    path: Path
    exists: bool
    is_regular: bool
    is_block_device: bool
    is_directory: bool
    readable: bool
    writable: bool
    searchable: bool  # of a directory: may be passed through


def run_as(user: RunAs | None, command: Sequence[str | Path]) -> subprocess.CompletedProcess[bytes]:
    """Run a short command as `user` (None: as this process) and return its result, whatever its exit status.

    Raises `Failed` when it cannot be started, or has not ended after `PATIENCE_S`, as when a file server is away.
    """
    try:
        return subprocess.run(
            [os.fspath(word) for word in command],
            capture_output=True,
            check=False,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else user.groups,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} gave no answer in {PATIENCE_S:.0f} s", "is the file server reachable?") from error
    except OSError as error:
        as_whom = "" if user is None else f" as {user}"
        raise Failed(f"cannot run {command[0]}{as_whom}: {error.strerror}") from error


def look(paths: Sequence[Path], user: RunAs | None = None) -> list[Access]:
    """What `user` (None: this process) sees at each of `paths`. Raises `Failed` when no answer comes."""
    answer = run_as(user, ["sh", "-c", _LOOK, "sh", *paths])
    if answer.returncode != 0:
        raise Failed(f"cannot look at {paths[0]}: {answer.stderr.decode(errors='replace').strip()}")
    return [
        Access(
            path=path,
            exists="e" in seen,
            is_regular="f" in seen,
            is_block_device="b" in seen,
            is_directory="d" in seen,
            readable="r" in seen,
            writable="w" in seen,
            searchable="d" in seen and "x" in seen,
        )
        for path, seen in zip(paths, answer.stdout.decode().splitlines(), strict=True)
    ]


def why_not_there(path: Path, user: RunAs | None = None) -> str:
    """Why `user` does not see `path`: it does not exist, or which directory on the way may not be entered."""
    for directory in look(list(reversed(path.parents)), user):
        if not directory.exists:
            return f"there is no {directory.path}"
        if not directory.is_directory:
            return f"{directory.path} is not a directory"
        if not directory.searchable:
            return f"{user or 'this user'} may not enter {directory.path}"
    return "it does not exist"


def check_readable(path: Path, user: RunAs | None = None) -> list[Finding]:
    """What keeps `user` from reading a file, such as a kernel that a VM boots from."""
    subject = f"file {path}"
    try:
        (access,) = look([path], user)
        if not access.exists:
            return [Finding(subject, why_not_there(path, user))]
    except BasculeError as error:
        return [Finding(subject, error.message, error.remedy)]
    if access.is_regular and access.readable:
        return []
    who = user or "this user"
    problem = f"{who} may not read it" if access.is_regular else "it is no regular file"
    return [Finding(subject, problem, f"let {who}, whom QEMU runs as, read it" if access.is_regular else "")]
