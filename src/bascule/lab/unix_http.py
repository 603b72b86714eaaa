"""One HTTP request over a unix socket: enough to ask an agent how it is, on the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any


class NoAnswerError(Exception):
    """Nobody answered: no socket, nobody behind it, too late, or no HTTP and JSON."""


def request(socket_path: Path, method: str, path: str, body: Any = None, *, timeout_s: float = 10.0) -> tuple[int, Any]:
    """Return the status and the decoded JSON of one request. Raises `NoAnswerError`."""
    connection = _Connection(socket_path, timeout_s)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswerError(str(error) or type(error).__name__) from error
    finally:
        connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, socket_path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._socket_path))
