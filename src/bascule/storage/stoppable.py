"""Blocking work in a thread that is over before its caller goes on, also when the caller is cancelled."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from contextlib import suppress
from typing import Self, TypeVar

T = TypeVar("T")


class StoppedError(Exception):
    """The work was told to stop, and has."""


class Stop:
    """How a thread is told to stop, even while it waits for a descriptor. Close it when the work is over."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC)

    def set(self) -> None:
        """Tell the work to stop."""
        os.eventfd_write(self._event, 1)

    def check(self) -> None:
        """Raise `StoppedError` if told to stop."""
        waiting = select.poll()
        waiting.register(self._event, select.POLLIN)
        if waiting.poll(0):
            raise StoppedError

    def wait_readable(self, descriptor: int) -> None:
        """Wait until `descriptor` can be read or has ended. Raises `StoppedError` when told to stop."""
        waiting = select.poll()
        waiting.register(self._event, select.POLLIN)
        waiting.register(descriptor, select.POLLIN)
        if any(ready == self._event for ready, _ in waiting.poll()):
            raise StoppedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._event)


async def run_stoppable(work: Callable[[Stop], T], undo: Callable[[T], None] | None = None) -> T:
    """Run `work` in a thread and return its result.

    Cancelled, it tells the work to stop and waits until it has, so that nothing is still being written afterwards. Work
    that was finished by then is undone: `undo` gets its result.
    """
    with Stop() as stop:
        future = asyncio.get_running_loop().run_in_executor(None, work, stop)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            if future.exception() is None and undo is not None:
                undo(future.result())
            raise
