"""Threads that must not come late on a busy machine: they wait for a phase of some milliseconds."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_NICE = -15


@contextlib.contextmanager
def urgent() -> Iterator[None]:
    """Let this thread go before others. Whatever it starts inside is as urgent, so start nothing here."""
    thread = threading.get_native_id()  # Linux keeps a niceness for each thread
    before = os.getpriority(os.PRIO_PROCESS, thread)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, thread, _NICE)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, thread, before)
