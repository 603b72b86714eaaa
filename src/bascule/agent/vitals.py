"""How the agent itself is: what it holds now, for whoever watches that it stays up. Nothing here is a VM's."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from bascule.agent.host import Host, resident_bytes

_ID = re.compile(r"\b(m[0-9a-f]{8}|Task-\d+)\b|/\S+")
_STARTED_S = time.monotonic()


async def vitals(host: Host) -> dict[str, Any]:
    """Return the figures. `tasks` counts asyncio's by what they do; `journal_bytes` has all files of the journal."""
    descriptors, files, threads = _counts()
    names = Counter(_ID.sub("*", task.get_name()) for task in asyncio.all_tasks())
    return {
        "pid": os.getpid(),
        "up_s": round(time.monotonic() - _STARTED_S, 1),
        "resident_bytes": resident_bytes(os.getpid()),
        "descriptors": descriptors,
        "open_files": files,
        "threads": threads,
        "tasks": sum(names.values()),
        "tasks_by_name": dict(sorted(names.items())),
        "journal_bytes": host.journal.size_bytes(),
        "moves_under_way": len(await host.moves.waiting_for()),
    }


def _counts() -> tuple[int, int, int]:
    """Count this process's open descriptors, those among them that are files, and its threads."""
    count = files = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists them is gone by then
            files += stat.S_ISREG(os.fstat(int(entry.name)).st_mode)
            count += 1
    return count, files, len(list(Path("/proc/self/task").iterdir()))
