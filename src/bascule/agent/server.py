"""HTTP servers inside the agent's own event loop: one on the unix socket, one on TCP for the other agents."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from bascule.errors import Refused


class Server(uvicorn.Server):
    """A uvicorn server that leaves the process's signals to the agent."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def make_server(app: FastAPI, graceful_s: int = 2) -> Server:
    """Wrap `app`."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=graceful_s, ws="none"
    )
    return Server(config)


def unix_socket(path: Path) -> socket.socket:
    """Listen at `path`, for root alone. A socket left by a dead agent is replaced; a living agent is not.

    Raises Refused when another agent answers there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink()
            else:
                raise Refused(f"cannot listen at {path}: another agent answers there", "stop it, or use another socket")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise Refused(f"cannot listen at {path}: {error.strerror or error}") from error
    return listener


def tcp_socket(address: str) -> socket.socket:
    """Listen at "ADDRESS:PORT". Raises Refused if that is not possible."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise Refused(f"cannot listen at {address!r}: it is not ADDRESS:PORT, such as 10.0.0.1:7440")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only on sockets that name it; without it, every answer of
    # two segments waits 40 ms for the other side's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise Refused(
            f"cannot listen at {address}: {error.strerror or error}", "choose another with --insecure-listen"
        ) from error
    return listener
