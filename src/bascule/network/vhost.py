"""vhost-net: the kernel's own server of virtio NICs, which reads and writes the tap in QEMU's place.

The agent opens the device, once for each queue, and passes the descriptors to QEMU, whose user need not be able to.
"""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

from bascule.errors import Failed

VHOST_NET = Path("/dev/vhost-net")


def open_vhost(queues: int) -> list[io.FileIO]:
    """Open vhost-net for so many queues. It blocks, as it may load the kernel's module: call it in a thread.

    Raises `Failed` where this host does not have it, or it is not to be had now.
    """
    opened: list[io.FileIO] = []
    try:
        opened.extend(io.FileIO(VHOST_NET, "r+b") for _ in range(queues))
    except OSError as error:
        for each in opened:
            each.close()
        raise Failed(f"vhost-net is not to be had: {VHOST_NET}: {error.strerror}", "modprobe vhost_net") from error
    return opened


def has_vhost(pid: int) -> bool:
    """Whether process `pid` has vhost-net open. False where the process is gone or may not be looked at."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if entry.readlink() == VHOST_NET:
                    return True
    return False
