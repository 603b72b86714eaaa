"""The session on QEMU's monitor (QMP, the QEMU Machine Protocol), on top of qemu.qmp.

What this adds to the library: a deadline on every command, errors that say whether a command may have run, events
handed on at once instead of being kept, and an end of the session that nobody can miss.

QEMU serves one session at a time on a socket; a second one connects and then waits for a greeting that does not
come before the first has gone. That is how a new agent takes over: the old one's end frees the monitor.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from qemu.qmp import ExecInterruptedError, ExecuteError, Message, QMPClient, QMPError, Runstate
from qemu.qmp.events import EventListener
from qemu.qmp.protocol import ConnectError, StateError

from bascule.errors import Failed, Unknown

COMMAND_DEADLINE_S = 5.0
_RETRY_FIRST_S, _RETRY_LONGEST_S = 0.001, 0.01


class QmpError(Failed):
    """QEMU answered a command with an error; `description` is its own text."""

    def __init__(self, command: str, description: str, error_class: str) -> None:
        super().__init__(f"QEMU refused {command}: {description}")
        self.command = command
        self.description = description
        self.error_class = error_class


class QmpTimeout(Unknown):
    """QEMU did not answer in time. A command that was sent may have run, or may still run later."""


class QmpDisconnected(Unknown):
    """There is no session. `maybe_ran` tells whether the command was sent before: then only looking can tell."""

    def __init__(self, message: str, *, maybe_ran: bool) -> None:
        super().__init__(message)
        self.maybe_ran = maybe_ran


@dataclass(frozen=True, slots=True)
class QmpEvent:
    """An event as QEMU emitted it.

    `at_us` is QEMU's own reading of the host's wall clock in microseconds since 1970 (negative if it could not read
    it); `received_s` is this process's time.monotonic() when the event arrived here.
    """

    name: str
    data: Mapping[str, Any]
    at_us: int
    received_s: float


# Every failure reaches the caller as an exception; the library would print it as well.
_SILENT = logging.getLogger(__name__)
_SILENT.setLevel(logging.CRITICAL)

EventCallback = Callable[[QmpEvent], None]


class QmpSession:
    """An established session. Commands may be sent concurrently; each waits for its own answer."""

    def __init__(self, client: QMPClient, sock: socket.socket, path: str) -> None:
        """Use `connect`."""
        self.path = path
        self._client = client
        self._socket = sock
        self._passing_fd = asyncio.Lock()
        self._end = ""
        watch = self._watch()
        self._watcher = asyncio.create_task(watch, name=f"qmp {path}")  # noqa: TID251  # owned: `close` ends it

    @classmethod
    async def connect(
        cls,
        path: str,
        on_event: EventCallback,
        *,
        deadline_s: float,
        check: Callable[[], None] = lambda: None,
    ) -> Self:
        """Connect to the monitor at `path` as soon as QEMU listens there.

        `on_event` is called for every event, in order, in the task that read it: it must neither block nor raise.
        `check` is called while the socket does not answer yet and may raise, for instance because QEMU has exited.
        Raises `QmpTimeout`, or `QmpDisconnected` when QEMU hangs up.
        """
        sock = None
        client = _Client(on_event)
        try:
            async with asyncio.timeout(deadline_s):
                sock = await _open_socket(path, check)
                await client.connect(sock)
        except TimeoutError:
            _close(sock)
            raise QmpTimeout(
                f"QEMU did not answer on {path} within {deadline_s:g} s",
                "another client may hold its monitor, or QEMU is frozen",
            ) from None
        except ConnectError as error:
            _close(sock)
            raise QmpDisconnected(f"QEMU hung up on {path}: {error.exc!r}", maybe_ran=False) from error
        except AssertionError as error:
            # What the library does when QEMU hangs up between the negotiation and the end of connect().
            with suppress(Exception):
                await client.disconnect()
            raise QmpDisconnected(f"QEMU hung up on {path} at once", maybe_ran=False) from error
        except BaseException:
            _close(sock)
            raise
        return cls(client, sock, path)

    @property
    def connected(self) -> bool:
        """Whether commands can be sent."""
        return self._client.runstate is Runstate.RUNNING

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        deadline_s: float = COMMAND_DEADLINE_S,
        out_of_band: bool = False,
    ) -> Any:
        """Run a QMP command and return its answer.

        `out_of_band` lets the few commands that allow it run while QEMU's main loop is stuck.
        Raises `QmpError` (QEMU said no), `QmpTimeout` and `QmpDisconnected`; after the latter two the command may
        have run: ask QEMU for what it would have changed.
        """
        try:
            async with asyncio.timeout(deadline_s):
                return await self._client.execute(command, arguments, oob=out_of_band)
        except TimeoutError:
            raise QmpTimeout(f"QEMU did not answer {command} within {deadline_s:g} s") from None
        except ExecuteError as error:
            raise QmpError(command, str(error), error.error_class) from None
        except StateError:
            raise QmpDisconnected(f"cannot send {command}: {self._why()}", maybe_ran=False) from None
        except ExecInterruptedError:
            raise QmpDisconnected(f"the session ended during {command}: {self._why()}", maybe_ran=True) from None
        except QMPError as error:  # an answer that is neither a result nor an error
            raise QmpTimeout(f"QEMU's answer to {command} makes no sense: {error}") from error

    async def pass_fd(self, descriptor: int, name: str) -> None:
        """Give QEMU a duplicate of `descriptor`, to be called `name` in later commands (`getfd`)."""
        # QEMU keeps only the descriptors that came last, so no other may come between this one and its command.
        async with self._passing_fd:
            try:
                self._client.send_fd_scm(descriptor)
            except StateError:
                raise QmpDisconnected(f"cannot pass a descriptor: {self._why()}", maybe_ran=False) from None
            except OSError as error:
                raise QmpError("getfd", f"cannot pass a descriptor: {error}", "OSError") from error
            await self.execute("getfd", {"fdname": name})

    async def ended(self) -> str:
        """Wait for the end of the session, by either side; returns why it ended."""
        await asyncio.wait({self._watcher})
        return self._why()

    async def close(self) -> None:
        """End the session, without waiting for a QEMU that does not read; QEMU itself goes on."""
        # The reader sees the end of the stream, and the session ends the way that QEMU's own hanging up ends it.
        if not self._watcher.done():
            self._end = self._end or "the session was closed"
            with suppress(OSError):  # QEMU was faster
                self._socket.shutdown(socket.SHUT_RDWR)
        await asyncio.wait({self._watcher})

    async def _watch(self) -> None:
        """Own the end of the session: the library ends it only when somebody calls `disconnect`."""
        if self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        try:
            await self._client.disconnect()
        except EOFError:
            self._end = self._end or "QEMU hung up"
        except Exception as error:  # the library re-raises whatever ended its reader or writer
            self._end = self._end or f"{type(error).__name__}: {error}"

    def _why(self) -> str:
        return self._end or "the session is ending"


class _Client(QMPClient):
    """qemu.qmp's client without its logging and without its memory of events."""

    def __init__(self, on_event: EventCallback) -> None:
        super().__init__()
        self.logger = _SILENT
        # The default listener accepts everything and keeps it for ever.
        self.events.event_filter = lambda _event: False
        self.register_listener(_Forward(on_event))

    def _cb_inbound(self, msg: Message) -> Message:
        # The library's hook pretty-prints each message for its debug log, even when nobody reads that log.
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return msg


class _Forward(EventListener):
    """Hands each event on in the very task that read it from the socket, and stores nothing."""

    def __init__(self, on_event: EventCallback) -> None:
        super().__init__()
        self._on_event = on_event

    async def put(self, event: Message) -> None:
        received_s = time.monotonic()
        stamp: Any = event["timestamp"]
        data: Any = event.get("data", {})
        at_us = stamp["seconds"] * 1_000_000 + stamp["microseconds"]
        self._on_event(QmpEvent(str(event["event"]), data, at_us, received_s))


async def _open_socket(path: str, check: Callable[[], None]) -> socket.socket:
    """Connect as soon as somebody listens at `path`."""
    wait_s = _RETRY_FIRST_S
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):  # not made, not listened at, queue full
            sock.close()
            check()
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 1.5, _RETRY_LONGEST_S)
        except BaseException:
            sock.close()
            raise
        else:
            return sock


def _close(sock: socket.socket | None) -> None:
    if sock is not None:
        sock.close()
