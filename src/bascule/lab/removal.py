"""Taking a lab down: everything that carries its name, whatever state it is in.

Nothing here trusts the lab's record: processes, namespaces, mounts and directories are found as they are. So it
works after `kill -9` of the builder, halfway through a build or a removal, and twice in a row.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from bascule.errors import Failed, Refused
from bascule.lab import agents, processes, state
from bascule.lab.locking import lock_existing
from bascule.lab.names import is_name
from bascule.lab.namespaces import Batch, inode, list_namespaces, run_batch
from bascule.lab.places import ROOT, Places
from bascule.lab.processes import Process

_PATIENCE_S = 3.0
_KILL_DEADLINE_S = 20.0
_LOCK_WAIT_S = 10.0
_MNT_DETACH = 2  # mount(2)


@dataclass(slots=True)
class Remains:
    """What is there of a lab, or what was removed of it."""

    processes: list[str] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.processes or self.namespaces or self.mounts or self.directories)

    def lines(self) -> list[str]:
        """Return one line for each kind of thing, with its names."""
        kinds = [
            (self.processes, "process", "processes"),
            (self.namespaces, "namespace", "namespaces"),
            (self.mounts, "mount", "mounts"),
            (self.directories, "directory", "directories"),
        ]
        return [
            f"{len(names)} {one if len(names) == 1 else many}: {', '.join(names)}"
            for names, one, many in kinds
            if names
        ]


def known_labs() -> list[str]:
    """Return the names of all labs of which there is anything."""
    names = set(list_namespaces())
    with contextlib.suppress(FileNotFoundError):
        names.update(entry.name for entry in ROOT.iterdir() if entry.is_dir() and is_name(entry.name))
    return sorted(names)


def find_remains(lab: str) -> Remains:
    """Return everything that there is of `lab`."""
    places = Places(lab)
    return Remains(
        processes=[_describe(process) for process in _find_processes(places)],
        namespaces=_namespaces(lab),
        mounts=_mounts_below(places.directory),
        directories=[str(places.directory)] if places.directory.exists() else [],
    )


def remove(lab: str) -> Remains:
    """Remove everything of `lab` and return what that was; nothing at all is fine too.

    Raises `Refused` if this process is itself inside the lab or somebody else works on it, `Failed` if
    something cannot be removed.
    """
    _refuse_from_inside(lab)
    if not find_remains(lab):
        return Remains()
    places = Places(lab)
    created = not places.directory.exists()
    with lock_existing(places.directory, wait_s=_LOCK_WAIT_S) as lock:
        removed = remove_locked(places, lock)
    if created:
        removed.directories.clear()
    return removed


def remove_locked(places: Places, lock: int) -> Remains:
    """Remove everything of the lab, whose directory is locked through `lock`."""
    lab = places.lab
    removed = Remains(processes=[_describe(process) for process in _find_processes(places)])
    processes.end(lambda: _find_processes(places), patience_s=_PATIENCE_S, deadline_s=_KILL_DEADLINE_S)
    removed.namespaces = _namespaces(lab)
    if removed.namespaces:
        lines = tuple(f"netns delete {name}" for name in removed.namespaces)
        run_batch(Batch("ip", None, lines, f"remove the namespaces of lab {lab}"), keep_open=[lock])
    # Whatever was on its way into a namespace above is marked, and cannot be on its way any more.
    processes.end(lambda: processes.find(lab, ()), patience_s=0, deadline_s=_KILL_DEADLINE_S)
    agents.collect_exited()
    removed.mounts = _unmount_below(places.directory)
    removed.directories = [str(places.directory)]
    try:
        shutil.rmtree(places.directory)
    except OSError as error:
        raise Failed(
            f"cannot remove {places.directory}: {error}", f"see what is in it, then: bascule lab down {lab}"
        ) from error
    for parent in (places.root, places.root.parent):  # the last lab takes the empty directories along
        with contextlib.suppress(OSError):
            parent.rmdir()
    return removed


def _refuse_from_inside(lab: str) -> None:
    own = Path("/proc/self/ns/net").stat()
    inside = (own.st_dev, own.st_ino) in _inodes(lab)
    if inside or os.environ.get(processes.MARK) == lab:
        raise Refused(
            f"cannot remove lab {lab} from inside it: this command would end itself halfway",
            "leave the shell that `bascule lab run` started, and try again",
        )


def _find_processes(places: Places) -> list[Process]:
    recorded: list[Process] = []
    with contextlib.suppress(Failed):  # a record that cannot be read names nobody
        record = state.read(places.record)
        recorded = record.live_processes() if record else []
    return processes.find(places.lab, _inodes(places.lab), recorded)


def _namespaces(lab: str) -> list[str]:
    return list_namespaces(lab).get(lab, [])


def _inodes(lab: str) -> set[tuple[int, int]]:
    return {found for name in _namespaces(lab) if (found := inode(name))}


def _describe(process: Process) -> str:
    return f"{process.pid} ({process.command() or 'gone meanwhile'})"


def _mounts_below(directory: Path) -> list[str]:
    """Return the mount points in and below `directory`, the innermost first (proc_pid_mountinfo(5))."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda escaped: chr(int(escaped[1], 8)), line.split()[4])
        if Path(point).is_relative_to(directory):
            points.append(point)
    return points[::-1]


def _unmount_below(directory: Path) -> list[str]:
    """Detach every mount in and below `directory`, so that removing it cannot reach into another file system."""
    points = _mounts_below(directory)
    libc = ctypes.CDLL(None, use_errno=True)
    for point in points:
        if libc.umount2(os.fsencode(point), _MNT_DETACH) != 0:
            raise Failed(f"cannot unmount {point}: {os.strerror(ctypes.get_errno())}", f"umount {point}")
    return points
