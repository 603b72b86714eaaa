"""Whom a probe asks: `10.77.0.50`, `10.77.0.50:7`, `[fd00::50]:7`, `fe80::50%br0`, `web.example:7`, `http://web/`."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from bascule.errors import Refused

WITHOUT_PORT = ("icmp", "arp")
_FORMS = {"icmp": "10.77.0.50 or fd00::50", "arp": "10.77.0.50", "http": "http://10.77.0.50/"}
_FORM = "10.77.0.50:7 or [fd00::50]:7"
_HOST_AND_PORT = re.compile(r"(?:\[(?P<six>[^\[\]/]+)\]|(?P<host>[^\[\]:/]+)):(?P<port>\d{1,5})")
_HOST = re.compile(r"\[(?P<six>[^\[\]/]+)\]|(?P<host>[^\[\]/]+)")
_HIGHEST_PORT = 65535
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Target:
    """A resolved address. `text` is what the user gave, for messages; `path` and `host` are for HTTP only."""

    text: str
    family: socket.AddressFamily
    address: Any  # of the family: what socket.connect takes
    host: str = ""
    path: str = "/"


def parse_target(kind: str, text: str, *, ip_version: int | None = None) -> Target:
    """Read and resolve the target of a probe of `kind` (see `samples.NAMES`); of a name's addresses, take the first.

    `ip_version`: 4 or 6, where a name has addresses of both.

    Raises:
        Refused: it is not written so, or its name is not known, or has no such address.
    """
    attempt = f"cannot probe {text} by {kind.upper()}"
    host, port, authority, path = _split(kind, text, attempt)
    family = socket.AF_INET if kind == "arp" else FAMILIES[ip_version] if ip_version else socket.AF_UNSPEC
    if kind == "arp" and (ip_version == 6 or _is_six(host)):
        raise Refused(f"{attempt}: ARP is for IPv4, and that is IPv6", "ask by ICMP")
    try:
        found, _, _, _, address = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        version = f" as IPv{ip_version}" if ip_version else ""
        raise Refused(
            f"{attempt}: its name cannot be resolved{version}: {error.strerror}",
            "look at the name, or give an IP address",
        ) from error
    return Target(text, found, address, host=authority, path=path)


def _split(kind: str, text: str, attempt: str) -> tuple[str, int, str, str]:
    """Return host, port (0: none), and for HTTP what stands in the request: the authority, and the path."""
    if kind == "http":
        try:
            parts = urlsplit(text)
            port = parts.port or 80
        except ValueError as error:  # a port that is no number, brackets around no IPv6 address
            raise _no_target(kind, attempt, f": {error}") from error
        if parts.scheme != "http" or not parts.hostname:
            raise _no_target(kind, attempt)
        return parts.hostname, port, parts.netloc, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    match = (_HOST if kind in WITHOUT_PORT else _HOST_AND_PORT).fullmatch(text)
    port = int(match["port"]) if match and kind not in WITHOUT_PORT else 0
    if match is None or port > _HIGHEST_PORT or (not port and kind not in WITHOUT_PORT):
        raise _no_target(kind, attempt)
    host = match["six"] or match["host"]
    if (match["six"] or ":" in host) and not _is_six(host):
        raise _no_target(kind, attempt)
    return host, port, "", "/"


def _no_target(kind: str, attempt: str, why: str = "") -> Refused:
    return Refused(f"{attempt}: that is no target{why}", f"write it as {_FORMS.get(kind, _FORM)}")


def _is_six(host: str) -> bool:
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False
