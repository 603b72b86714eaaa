"""QEMUs that are no VM's: started to be asked something, or to prove that a guest runs, and ended by whoever did so.

Each has a folder of its own, whose name says so, and its pid file in there. An agent that was killed meanwhile leaves
one behind, which would stay for ever; its successor ends it before it starts any of its own.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

from bascule.qemu.process import QemuExited, QemuProcess
from bascule.qemu.process_record import find_in

ASKED = "bascule-ask-"
PROOF = "bascule-proof-"
PROOF_QEMU = "qemu"  # the folder of its QEMU in that of a proof


async def sweep(parent: Path) -> list[int]:
    """End what was left in `parent`, remove the folders, and return the pids. Raises `Unknown` if one does not end."""
    ended = []
    for folder in _left_in(parent):
        for record in [*find_in(str(folder)), *find_in(str(folder / PROOF_QEMU))]:
            with suppress(QemuExited):
                await QemuProcess.adopt(record).kill()
            ended.append(record.pid)
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    return ended


def _left_in(parent: Path) -> list[Path]:
    return sorted(folder for prefix in (ASKED, PROOF) for folder in parent.glob(f"{prefix}*"))
