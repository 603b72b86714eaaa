"""Every QEMU of a lab, watched from outside: when its vCPUs ran, by QEMU's own STOP and RESUME, and when it died.

One thread finds the second monitors (`watched_qemu`) as they appear and listens to them. QEMU stamps its events with
the clock that all hosts of a lab share, STOP after the last vCPU stood still and RESUME before the first one runs: so
two spans of two processes that overlap are two copies that ran at once. A frozen QEMU counts as running if it ran: it
would go on when it is thawed.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Self

from bascule.lab.faults.urgency import urgent
from bascule.lab.faults.watched_qemu import SOCKET
from bascule.lab.processes import Process

_LOOK_S = 0.01
_RUNNING = frozenset({"running"})


@dataclass(slots=True)
class Span:
    """A time in which the vCPUs ran, in s since the epoch; `end_s` is None while they do."""

    begin_s: float
    end_s: float | None = None

    def overlap_s(self, other: Span, now_s: float) -> float:
        """For how long both were."""
        end = min(self.end_s or now_s, other.end_s or now_s)
        return end - max(self.begin_s, other.begin_s)

    def holds(self, at_s: float) -> bool:
        """Whether the vCPUs ran at that time."""
        return self.begin_s <= at_s and (self.end_s is None or at_s < self.end_s)


@dataclass(slots=True)
class WatchedQemu:
    """One QEMU process of a VM."""

    host: str
    process: Process
    spans: list[Span] = field(default_factory=list)
    dead_s: float | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def runs(self) -> bool:
        """Whether its vCPUs run, as far as it has said."""
        return self.dead_s is None and bool(self.spans) and self.spans[-1].end_s is None

    def ran_at(self, at_s: float) -> bool:
        """Whether its vCPUs ran at that time."""
        return any(span.holds(at_s) for span in self.spans)

    def note(self, *, running: bool, at_s: float) -> None:
        """Note that the vCPUs run, or that they stand still, since then."""
        if running and not self.runs:
            self.spans.append(Span(at_s))
        elif not running and self.runs:
            self.spans[-1].end_s = at_s

    def note_death(self, at_s: float) -> None:
        """Note the end of the process."""
        self.note(running=False, at_s=at_s)
        self.dead_s = at_s


def doubled(qemus: list[WatchedQemu], since_s: float, now_s: float) -> list[str]:
    """Return a sentence for each two QEMUs whose vCPUs ran at the same time, after `since_s`."""
    found = []
    for one, other in combinations(qemus, 2):
        together_s = max((a.overlap_s(b, now_s) for a in one.spans for b in other.spans), default=0.0)
        latest_s = min(
            (qemu.spans[-1].end_s or now_s if qemu.spans else 0.0 for qemu in (one, other)),
        )
        if together_s > 0 and latest_s > since_s:
            names = " and ".join(f"that of {qemu.host} (pid {qemu.pid})" for qemu in (one, other))
            found.append(f"{names} ran at once for {together_s * 1000:.3f} ms")
    return found


class QemuWatch:
    """Watches the VMs of some hosts; a context manager. `folders` are the hosts' folders of VMs."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        self._connections: dict[tuple[int, int], _Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._qemus: list[WatchedQemu] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch QEMUs")
        self.trouble: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for connection in list(self._connections.values()):
            self._forget(connection)
        self._selector.close()

    def all(self) -> list[WatchedQemu]:
        """Return all that were seen, dead or alive."""
        with self._lock:
            return list(self._qemus)

    def of(self, host: str) -> list[WatchedQemu]:
        """Return those of a host that live."""
        return [qemu for qemu in self.all() if qemu.host == host and qemu.dead_s is None]

    def ask(self, qemu: WatchedQemu, command: str, *, timeout_s: float = 5.0) -> Any:
        """Run a QMP command over the second monitor. Raises TimeoutError, or OSError if QEMU is gone."""
        with self._lock:
            connection = next((each for each in self._connections.values() if each.qemu is qemu), None)
        if connection is None:
            raise OSError(f"QEMU (pid {qemu.pid}) is gone")
        return connection.ask(command).result(timeout_s)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with urgent():
            self._watch()

    def _watch(self) -> None:
        look_s = 0.0
        while not self._stop.is_set():
            if time.monotonic() >= look_s:
                self._find()
                look_s = time.monotonic() + _LOOK_S
            for key, _mask in self._selector.select(_LOOK_S):
                connection: _Connection = key.data
                if key.fileobj is connection.socket:
                    connection.read()
                else:
                    connection.qemu.note_death(time.time())
                    self._forget(connection)

    def _find(self) -> None:
        for host, folder in self._folders.items():
            for path in folder.glob(f"*/{SOCKET}"):
                with contextlib.suppress(OSError):
                    status = path.stat()
                    key = (status.st_dev, status.st_ino)
                    if key not in self._connections:
                        self._connect(host, path, key)

    def _connect(self, host: str, path: Path, key: tuple[int, int]) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
            pid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            pidfd = os.pidfd_open(pid)
        except OSError:  # not listening yet, or dead already
            sock.close()
            raise
        process = Process.of(pid)
        if process is None:
            sock.close()
            os.close(pidfd)
            return
        sock.setblocking(False)
        connection = _Connection(key, WatchedQemu(host, process), sock, pidfd)
        with self._lock:
            self._connections[key] = connection
            self._qemus.append(connection.qemu)
        self._selector.register(sock, selectors.EVENT_READ, connection)
        self._selector.register(pidfd, selectors.EVENT_READ, connection)
        connection.open()

    def _forget(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.pop(connection.key, None)
        for thing in (connection.socket, connection.pidfd):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(thing)
        connection.close()


class _Connection:
    """A session on a second monitor."""

    def __init__(self, key: tuple[int, int], qemu: WatchedQemu, sock: socket.socket, pidfd: int) -> None:
        self.key, self.qemu, self.socket, self.pidfd = key, qemu, sock, pidfd
        self._received = b""
        self._number = 0
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()

    def open(self) -> None:
        """Begin to listen."""
        self.ask("qmp_capabilities")
        asked = self.ask("query-status")
        asked.add_done_callback(self._first_status)

    def _first_status(self, answer: Future[Any]) -> None:
        if not answer.cancelled() and answer.exception() is None and answer.result()["status"] in _RUNNING:
            self.qemu.note(running=True, at_s=time.time())

    def ask(self, command: str) -> Future[Any]:
        """Send a command; its answer comes later."""
        future: Future[Any] = Future()
        with self._lock:
            self._number += 1
            self._waiting[self._number] = future
            data = json.dumps({"execute": command, "id": self._number}).encode() + b"\n"
            try:
                self.socket.sendall(data)
            except OSError as error:
                self._waiting.pop(self._number)
                future.set_exception(error)
        return future

    def read(self) -> None:
        """Take in what QEMU says."""
        try:
            data = self.socket.recv(65536)
        except OSError:
            return
        if not data:
            return  # it is dying: the pidfd tells when
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            if line.strip():
                self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            stamp = message["timestamp"]
            at_s = stamp["seconds"] + stamp["microseconds"] / 1e6
            if message["event"] in ("STOP", "RESUME"):
                self.qemu.note(running=message["event"] == "RESUME", at_s=at_s)
            return
        with self._lock:
            future = self._waiting.pop(message.get("id", 0), None)
        if future is not None:
            if "return" in message:
                future.set_result(message["return"])
            else:
                future.set_exception(OSError(str(message.get("error"))))

    def close(self) -> None:
        """End the session."""
        self.socket.close()
        os.close(self.pidfd)
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            future.set_exception(OSError("QEMU is gone"))
