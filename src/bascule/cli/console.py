"""A terminal joined to a VM's serial line.

Works on file descriptors alone, so that it serves a terminal and a pipe alike:

    terminal   raw mode, Ctrl-] leaves; the terminal is restored whatever happens
    pipe       the input is sent; after its end the guest's answer is awaited until the guest has been silent
               for a while

Neither side may block the other: a guest that does not read its serial line must not keep Ctrl-] from working.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Iterator
from types import FrameType

from bascule.cli.output import say
from bascule.errors import Refused

ESCAPE = b"\x1d"  # Ctrl-]
CHUNK_BYTES = 64 * 1024


def join(name: str, serial_socket: str, *, linger_s: float) -> None:
    """Join stdin and stdout to the VM's serial socket until the user, the input or the VM ends it."""
    line = _connect(name, serial_socket)
    terminal = os.isatty(sys.stdin.fileno())
    if terminal:
        say(f"joined to the console of vm {name}; Ctrl-] leaves", to=sys.stderr)
    with line, _raw_terminal() if terminal else contextlib.nullcontext():
        closed = _pump(line, terminal=terminal, linger_s=linger_s)
    if closed:
        say(f"the console closed: look with: bascule vm show {name}", to=sys.stderr)
    elif terminal:
        say(f"\nleft the console of vm {name}", to=sys.stderr)


def _connect(name: str, serial_socket: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        line.connect(serial_socket)
    except OSError as error:
        line.close()
        raise Refused(
            f"cannot join the console of vm {name} at {serial_socket}: {error.strerror}",
            "run the command as root" if isinstance(error, PermissionError) else f"look with: bascule vm show {name}",
        ) from error
    line.setblocking(False)
    return line


def _pump(line: socket.socket, *, terminal: bool, linger_s: float) -> bool:
    """Copy both ways; return True if the VM closed the line, False if this side left."""
    stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
    unsent = b""
    input_open = True
    leave_at_s: float | None = None
    while True:
        # A terminal is always read, for Ctrl-]; a pipe only once what it gave before has been sent.
        readers = [line, stdin] if input_open and (terminal or not unsent) else [line]
        timeout_s = None if leave_at_s is None else max(0.0, leave_at_s - time.monotonic())
        readable, writable, _ = select.select(readers, [line] if unsent else [], [], timeout_s)
        if not readable and not writable:
            return False  # the input has ended and the guest is silent
        if line in readable:
            received = _receive(line)
            if received == b"":
                return True
            if received and not _write_all(stdout, received):
                return False  # nobody reads our output any more
        if stdin in readable:
            typed = _read_input(stdin)
            if terminal and ESCAPE in typed:
                return False
            input_open = typed != b""
            unsent = (unsent + typed)[:CHUNK_BYTES]
        if line in writable:
            with contextlib.suppress(BlockingIOError, ConnectionError):  # its end is seen by reading
                unsent = unsent[line.send(unsent) :]
        leave_at_s = None if input_open or unsent else time.monotonic() + linger_s


def _receive(line: socket.socket) -> bytes | None:
    """Return what came, b"" at the line's end, None when there is nothing after all."""
    try:
        return line.recv(CHUNK_BYTES)
    except BlockingIOError:
        return None
    except ConnectionError:
        return b""


def _read_input(descriptor: int) -> bytes:
    """Return what was typed or piped; b"" at its end, which a terminal that went away tells by an error."""
    try:
        return os.read(descriptor, CHUNK_BYTES)
    except OSError:
        return b""


def _write_all(descriptor: int, content: bytes) -> bool:
    try:
        while content:
            content = content[os.write(descriptor, content) :]
    except BrokenPipeError:
        return False
    return True


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Put stdin into raw mode; restore it at the end, also when a signal asks us to end."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    handlers = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
