"""While a VM stands still, its agents go first: no waiting for a processor, no garbage collection.

A host that VMs are moved off is a busy host. There the agent, an ordinary process, waits milliseconds for a processor
whenever it is to act, and it acts several times in a switchover. So the threads that act, the event loop's and the
journal's, are real-time threads from the VM's stop until it runs, and no longer: for milliseconds, 10 s at most.

What they start meanwhile is not (SCHED_RESET_ON_FORK), and the kernel keeps real-time threads from taking a whole core.
An agent that is not permitted to, in a container for instance, goes on as it is.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Sequence
from contextlib import suppress

AT_MOST_S = 10.0
URGENT = os.SCHED_RR | os.SCHED_RESET_ON_FORK
PRIORITY = 1  # the lowest that goes before every ordinary thread


class Urgency:
    """Of one agent. Held by each switchover under way; the last one to release it ends it."""

    def __init__(self, threads: Sequence[int]) -> None:
        """`threads` are the kernel's numbers of the threads that act."""
        self._threads = threads
        self._held: dict[str, asyncio.TimerHandle] = {}

    @property
    def held(self) -> bool:
        """Whether a switchover is under way."""
        return bool(self._held)

    def hold(self, by: str, at_most_s: float = AT_MOST_S) -> None:
        """Go first from now on until `release`. Held already `by` the same, nothing changes."""
        if by in self._held:
            return
        if not self._held:
            gc.disable()
            self._schedule(URGENT, PRIORITY)
        self._held[by] = asyncio.get_running_loop().call_later(at_most_s, self.release, by)

    def release(self, by: str) -> None:
        """Go with the others again, unless somebody else holds on."""
        if (timer := self._held.pop(by, None)) is None:
            return
        timer.cancel()
        if not self._held:
            self._schedule(os.SCHED_OTHER, 0)
            gc.enable()

    def _schedule(self, policy: int, priority: int) -> None:
        for thread in self._threads:
            with suppress(OSError):
                os.sched_setscheduler(thread, policy, os.sched_param(priority))
