"""A small real HTTP server on a unix socket that speaks the agent's API, and the command line beside it."""

from __future__ import annotations

import json
import os
import queue
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 30.0
BASCULE = str(Path(sys.executable).with_name("bascule"))


@dataclass
class Answer:
    """What the server says to one request."""

    status: int
    body: Any


@dataclass(frozen=True)
class Cut:
    """A step of an event stream: the connection breaks here."""


@dataclass
class Asked:
    method: str
    path: str
    body: Any


Step = tuple[str, Any] | threading.Event | Cut
Route = Answer | Callable[[Asked], Answer] | list[Step]


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, path: str, agent: ScriptedAgent) -> None:
        self.agent = agent
        super().__init__(path, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that go away: several tests are about that."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        asked = Asked(self.command, self.path, body)
        self.server.agent.asked.append(asked)
        self.server.agent.arrivals.put(asked)
        route = self.server.agent.take(asked)
        if isinstance(route, list):
            self._stream(route)
            return
        answer = route(asked) if callable(route) else route
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = do_PUT = _answer  # noqa: N815 - http.server's names

    def _stream(self, steps: list[Step]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        self._chunk(": hello\n\n")
        for step in steps:
            if isinstance(step, threading.Event):
                assert step.wait(DEADLINE_S)
            elif isinstance(step, Cut):
                return
            else:
                name, data = step
                self._chunk(f"event: {name}\r\ndata: {json.dumps(data)}\r\n\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        content = text.encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
        self.wfile.flush()


@dataclass
class ScriptedAgent:
    """An agent whose answers a test writes down; each path may have several, given one after another."""

    directory: Path
    asked: list[Asked] = field(default_factory=list)
    arrivals: queue.Queue[Asked] = field(default_factory=queue.Queue)
    _routes: dict[tuple[str, str], list[Route]] = field(default_factory=dict)
    _server: _Server | None = None

    @property
    def socket(self) -> str:
        return str(self.directory / "agent.sock")

    def on(self, request: str, *routes: Route) -> None:
        """Answer `request` ("GET /v1/vms") with `routes`, the last one for ever."""
        method, path = request.split()
        self._routes[method, path] = list(routes)

    def ok(self, request: str, body: Any, status: int = 200) -> None:
        self.on(request, Answer(status, body))

    def take(self, asked: Asked) -> Route:
        routes = self._routes.get((asked.method, asked.path))
        if not routes:
            return Answer(404, {"error": {"kind": "refused", "message": f"no {asked.path}", "remedy": ""}})
        return routes.pop(0) if len(routes) > 1 else routes[0]

    def start(self) -> None:
        self._server = _Server(self.socket, self)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def die(self) -> None:
        """Leave the socket behind with nobody listening, as a killed agent does."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    answer = staticmethod(Answer)
    cut = staticmethod(Cut)

    def bodies(self, method: str, path: str) -> list[Any]:
        return [asked.body for asked in self.asked if (asked.method, asked.path) == (method, path)]


@dataclass
class Cli:
    """Runs the installed `bascule` against the scripted agent."""

    environment: dict[str, str] = field(repr=False)
    _spawned: list[tuple[subprocess.Popen[str], threading.Timer]] = field(default_factory=list)

    def __call__(self, *arguments: str, stdin: str | None = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BASCULE, *arguments],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env=self.environment | more,
        )

    def spawn(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start it, to be killed after the deadline: what waits for its output then sees the end of it."""
        process = subprocess.Popen(
            [BASCULE, *arguments],
            text=True,
            env=self.environment,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
        )
        watchdog = threading.Timer(DEADLINE_S, process.kill)
        watchdog.start()
        self._spawned.append((process, watchdog))
        return process

    def close(self) -> None:
        """Call the watchdogs off, and leave no process behind where a test has failed midway."""
        for process, watchdog in self._spawned:
            watchdog.cancel()
            watchdog.join()
            with process:  # closes its pipes: as garbage, they would make another test fail
                process.kill()


@pytest.fixture
def agent() -> Iterator[ScriptedAgent]:
    directory = Path(tempfile.mkdtemp(prefix="bsc-"))  # short: a unix socket's path has 107 characters
    scripted = ScriptedAgent(directory)
    scripted.start()
    yield scripted
    scripted.die()
    shutil.rmtree(directory)


@pytest.fixture
def cli(agent: ScriptedAgent) -> Iterator[Cli]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BASCULE")}
    runner = Cli(kept | {"BASCULE_SOCKET": agent.socket, "TERM": "xterm", "COLUMNS": "100", "PYTHONWARNINGS": "error"})
    yield runner
    runner.close()


def vm_record(**changes: Any) -> dict[str, Any]:
    definition = {
        "name": "web",
        "uuid": "6f1c0000-0000-4000-8000-000000000001",
        "memory_mib": 1024,
        "vcpus": 2,
        "nics": [{"bridge": "br0", "mac": "52:54:00:00:00:01"}],
        "disks": [],
        "rng": True,
    }
    record = {
        "name": "web",
        "uuid": definition["uuid"],
        "state": "running",
        "host": "h1",
        "epoch": 1,
        "memory_mib": 1024,
        "vcpus": 2,
        "accelerator": "tcg",
        "pid": 4711,
        "serial_socket": None,
        "vnc": None,
        "definition": definition,
        "move": None,
    }
    return record | changes


def move_record(**changes: Any) -> dict[str, Any]:
    record = {
        "id": "m-1",
        "vm": "web",
        "source": "h1",
        "destination": "h2",
        "mode": "live",
        "phase": "ended",
        "outcome": "completed",
        "reason": "",
        "started_at": "2025-01-01T10:00:00Z",
        "total_s": 3.25,
    }
    return record | changes


def progress_record(**changes: Any) -> dict[str, Any]:
    record = {
        "move": "m-1",
        "at_s": 1.5,
        "phase": "copying",
        "round": 1,
        "remaining_bytes": 512 << 20,
        "transferred_bytes": 512 << 20,
        "total_bytes": 1 << 30,
        "rate_bytes_per_s": 300 << 20,
        "forecast_blackout_ms": 41.4,
        "message": "",
    }
    return record | changes


def report_record(**changes: Any) -> dict[str, Any]:
    record = {
        "schema": 1,
        "id": "m-1",
        "vm": "web",
        "source": "h1",
        "destination": "h2",
        "mode": "live",
        "outcome": "completed",
        "reason": "the VM runs on h2",
        "started_at": "2025-01-01T10:00:00Z",
        "total_s": 3.25,
        "goals": {"max_blackout_ms": 100.0, "deadline_s": 600.0},
        "accelerator": "tcg",
        "memory_mib": 1024,
        "rounds": [
            {
                "number": 1,
                "start_s": 0.2,
                "duration_s": 2.0,
                "sent_bytes": 1 << 30,
                "remaining_bytes": 1 << 20,
                "rate_bytes_per_s": 1 << 29,
            }
        ],
        "bytes": {
            "total": 1 << 30,
            "normal_pages": 200_000,
            "zero_pages": 50_000,
            "other": 1000,
            "transferred_in_blackout": 4096,
        },
        "blackout_ms": 12.5,
        "blackout_error_ms": 0.5,
        "blackout_basis": "STOP and RESUME",
        "blackout": [{"phase": "stop", "start_ms": 0.0, "ms": 1.0, "clock": "source"}],
        "forecast": None,
        "forecast_error": None,
        "timeline": [],
        "marks": [],
        "phases": [],
        "outage": None,
    }
    return record | changes


@pytest.fixture
def records() -> Records:
    return Records()


class Records:
    """Makers of the API's records with sensible content."""

    vm = staticmethod(vm_record)
    move = staticmethod(move_record)
    progress = staticmethod(progress_record)
    report = staticmethod(report_record)
