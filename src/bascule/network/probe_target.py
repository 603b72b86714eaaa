"""Whom a probe asks: `10.77.0.50:7`, `[fd00::50]:7`, `web.example:7`, `http://10.77.0.50/`."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bascule.errors import Refused


@dataclass(frozen=True, slots=True)
class Target:
    """A resolved address. `text` is what the user gave, for messages; `path` and `host` are for HTTP only."""

    text: str
    family: socket.AddressFamily
    address: Any  # of the family: what socket.connect takes
    host: str = ""
    path: str = "/"


def parse_target(kind: str, text: str) -> Target:
    """Read and resolve the target of a probe of `kind` "udp", "tcp" or "http".

    Raises:
        Refused: it is not written so, or its name is not known.
    """
    attempt = f"cannot probe {text} by {kind.upper()}"
    form = "http://10.77.0.50/" if kind == "http" else "10.77.0.50:7 or [fd00::50]:7"
    try:
        parts = urlsplit(text if kind == "http" else f"//{text}")
        port = parts.port or (80 if kind == "http" else None)
    except ValueError as error:  # a port that is no number, brackets around no IPv6 address
        raise Refused(f"{attempt}: that is no target: {error}", f"write it as {form}") from error
    is_right = parts.scheme == "http" if kind == "http" else not (parts.path or parts.query)
    if not (is_right and parts.hostname and port):
        raise Refused(f"{attempt}: that is no target", f"write it as {form}")
    sort = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    try:
        family, _, _, _, address = socket.getaddrinfo(parts.hostname, port, type=sort)[0]
    except OSError as error:
        raise Refused(
            f"{attempt}: its name cannot be resolved: {error.strerror}", "look at the name, or give an IP address"
        ) from error
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(text, family, address, host=parts.netloc, path=path)
