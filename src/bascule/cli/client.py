"""HTTP over the agent's unix socket, with its errors turned into ours.

Synchronous and on the standard library alone: a command asks one or two questions and ends. What an
interrupted request means depends on what it does. One that only reads is refused: nothing changed. One that
changes something, and whose answer never came, is unknown: its caller says how to look (`look`).
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote

from bascule.errors import BasculeError, Failed, Finding, Refused, Unknown

READ_TIMEOUT_S = 10.0
CHANGE_TIMEOUT_S = 120.0  # a first start proves KVM; a pre-flight lets both hosts look at everything


class NoAgent(Refused):
    """Nothing answers on the agent's socket."""


class StreamLost(Exception):
    """A stream of events ended, or fell silent, before its last event."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One server-sent event: its name and its decoded JSON data."""

    name: str
    data: Any


def url(*parts: str) -> str:
    """Return the path `/v1/part/part...` with each part quoted."""
    return "/".join(["/v1", *(quote(part, safe="") for part in parts)])


class AgentClient:
    """The agent that listens on `socket_path`. Holds no connection between requests."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path

    def get(self, path: str, *, timeout_s: float = READ_TIMEOUT_S) -> Any:
        """Read `path`. Raises `Refused` when there is no answer; else what the agent says."""
        return self._ask("GET", path, None, timeout_s=timeout_s, attempted=f"read {path}", look=None)

    def check(self, path: str, body: Any, *, attempted: str, timeout_s: float = CHANGE_TIMEOUT_S) -> Any:
        """POST a question that changes nothing."""
        return self._ask("POST", path, body, timeout_s=timeout_s, attempted=attempted, look=None)

    def change(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        attempted: str,
        look: str,
        timeout_s: float = CHANGE_TIMEOUT_S,
    ) -> Any:
        """Ask for a change, described by `attempted` ("start vm web").

        Raises `Unknown` with the remedy `look` when the answer does not come, be it for a dead agent, a
        timeout or an interrupt from the keyboard.
        """
        return self._ask(method, path, body, timeout_s=timeout_s, attempted=attempted, look=look)

    def events(self, path: str, *, timeout_s: float) -> Iterator[ServerEvent]:
        """Yield server-sent events until the stream ends or is silent for `timeout_s`: then `StreamLost`."""
        connection = _Connection(self.socket_path, timeout_s)
        try:
            _connect(connection)
            try:
                connection.request("GET", path, headers={"Accept": "text/event-stream"})
                response = connection.getresponse()
                if response.status != http.client.OK:
                    _raise_answer(response.status, response.read(), f"read {path}", look=None)
                yield from _parse_events(response)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise StreamLost(_why(error)) from error
        finally:
            connection.close()

    def _ask(self, method: str, path: str, body: Any, *, timeout_s: float, attempted: str, look: str | None) -> Any:
        connection = _Connection(self.socket_path, timeout_s)
        try:
            _connect(connection)
            payload = None if body is None else json.dumps(body)
            try:
                connection.request(method, path, payload, {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise _no_answer(attempted, _why(error), look) from error
            except KeyboardInterrupt:
                if look is None:
                    raise
                raise _no_answer(attempted, "you interrupted the wait", look) from None
        finally:
            connection.close()
        if not http.client.OK <= response.status < http.client.MULTIPLE_CHOICES:
            _raise_answer(response.status, content, attempted, look=look)
        try:
            return json.loads(content)
        except ValueError as error:
            raise _no_answer(attempted, "its answer was no JSON", look) from error


class _Connection(http.client.HTTPConnection):
    """An HTTP connection whose peer is a unix socket."""

    def __init__(self, socket_path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.socket_path)


def _connect(connection: _Connection) -> None:
    """Connect, or say in one sentence why there is nobody to talk to."""
    path = connection.socket_path
    try:
        connection.connect()
    except PermissionError as error:
        raise NoAgent(f"this user may not open the agent's socket {path}", "run the command as root") from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NoAgent(
            f"no agent is running behind the socket {path}",
            "start it with: bascule agent --config /etc/bascule/agent.toml"
            " (or name another socket with --socket or BASCULE_SOCKET)",
        ) from error
    except OSError as error:
        raise NoAgent(
            f"cannot reach an agent behind the socket {path}: {_why(error)}",
            "see how it is with: systemctl status bascule-agent",
        ) from error


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError | BlockingIOError):
        return "the agent did not answer in time"
    if isinstance(error, ConnectionError | http.client.HTTPException):
        return "the agent closed the connection"
    return str(error)


def _no_answer(attempted: str, why: str, look: str | None) -> BasculeError:
    if look is None:
        return Refused(f"cannot {attempted}: {why}", "see how the agent is with: systemctl status bascule-agent")
    return Unknown(f"asked the agent to {attempted}, but its answer never came: {why}", look)


def _raise_answer(status: int, content: bytes, attempted: str, *, look: str | None) -> NoReturn:
    """Raise the error that the agent answered with; the contract's form, or whatever came instead."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    record = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(record, dict):
        kind = {"refused": Refused, "failed": Failed}.get(str(record.get("kind")), Unknown)
        findings = [
            Finding(str(f.get("subject", "")), str(f.get("problem", "")), str(f.get("remedy") or ""))
            for f in record.get("findings") or ()
        ]
        remedy = str(record.get("remedy") or "") or (look or "" if kind is Unknown else "")
        raise kind(str(record.get("message", f"cannot {attempted}")), remedy, findings)
    if status < http.client.INTERNAL_SERVER_ERROR:  # turned down by the HTTP layer, before any work
        raise Refused(
            f"cannot {attempted}: the agent answered with HTTP status {status}",
            "the agent may be of another version: compare bascule --version with bascule hosts",
        )
    raise _no_answer(attempted, f"HTTP status {status} without an explanation", look)


def _parse_events(response: http.client.HTTPResponse) -> Iterator[ServerEvent]:
    """Parse the event stream (HTML standard, section 9.2.6) as far as the agent uses it."""
    name, data = "message", list[str]()
    while line := response.readline():
        field, _, value = line.decode().rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif not line.strip():
            if data:
                yield ServerEvent(name, json.loads("\n".join(data)))
            name, data = "message", []
    raise StreamLost("the agent closed the connection")
