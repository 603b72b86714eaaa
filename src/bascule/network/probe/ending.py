"""How a probe is told to end: SIGTERM or SIGINT, or the end of its standard input.

The latter is also the end of whoever started it, so that a killed parent leaves no probe behind.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Protocol


class Pollable(Protocol):
    """A socket, or an epoll that stands for many."""

    def fileno(self) -> int:
        """The descriptor."""


class Ending:
    """Watches for the end. `wait` is `select` beside it; the first one makes `is_here` true."""

    def __init__(self, *, stdin: int | None = 0) -> None:
        """Take over both signals (in the main thread only)."""
        self.is_here = False
        self._stdin = stdin
        self._wake, self._signalled = socket.socketpair()
        for end in (self._wake, self._signalled):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno())
        self._before = {number: signal.signal(number, self._take_note) for number in (signal.SIGTERM, signal.SIGINT)}

    def wait(
        self, readable: Sequence[Pollable], writable: Sequence[Pollable], timeout_s: float
    ) -> tuple[list[Pollable], list[Pollable]]:
        """Wait until one of them is ready, or the end is here, or `timeout_s` has passed.

        Not by `poll` or `epoll`, whose time-outs are whole milliseconds; the price is that no descriptor may be above
        1023.
        """
        watched: list[Pollable | int] = [*readable, self._wake]
        if self._stdin is not None:
            watched.append(self._stdin)
        ready, ready_to_write, _ = select.select(watched, writable, [], max(0.0, timeout_s))
        answered: list[Pollable] = []
        for one in ready:
            if one is self._wake:
                self.is_here = True
            elif isinstance(one, int):
                self.is_here |= _is_at_its_end(one)
            else:
                answered.append(one)
        if self.is_here:  # both would be ready for ever
            self._stdin = None
            with suppress(BlockingIOError):
                self._wake.recv(64)
        return answered, ready_to_write

    def close(self) -> None:
        """Give the signals back."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        for end in (self._wake, self._signalled):
            end.close()

    def _take_note(self, _number: int, _frame: FrameType | None) -> None:
        self.is_here = True


def _is_at_its_end(descriptor: int) -> bool:
    try:
        return not os.read(descriptor, 4096)
    except OSError:  # a terminal that went away
        return True
