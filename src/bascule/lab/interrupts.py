"""Signals that end a program, turned so that what it built is taken down first.

Python turns Ctrl-C into an exception by itself; SIGTERM and SIGHUP end the process on the spot unless told
otherwise. And a second Ctrl-C must not break the taking down that the first one began. Handlers can only be set
in the main thread; in any other, both managers do nothing, because no signal is handled there.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def endings_raise() -> Iterator[None]:
    """Within the body, SIGTERM and SIGHUP raise SystemExit, unless the program has its own idea of them."""
    changed = []
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _raise_exit)
                changed.append(number)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Hold SIGINT, SIGTERM and SIGHUP back until the body, which must not take for ever, is done."""
    held: list[int] = []
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, *_ENDING):
            handler = signal.getsignal(number)
            if handler is not None:  # None: set by other than Python, and not ours to put back
                previous[number] = handler
                signal.signal(number, lambda arrived, _frame: held.append(arrived))
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for arrived in dict.fromkeys(held):
            signal.raise_signal(arrived)


def _raise_exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
