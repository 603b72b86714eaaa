"""What `bascule migrate --probe` may be told: how to ask, and whom.

--probe                      ICMP echo, of the VM's address, which is found if it can be
--probe 10.77.0.50           ICMP echo, of that address
--probe udp:7                UDP echo on port 7, of the VM's address
--probe bulk:7               TCP echo on port 7, with as many bytes as it takes
--probe connect://web:443    by URL: any kind, whom, which port
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bascule.network.probe.samples import NAMES
from bascule.network.probe.target import WITHOUT_PORT

USUAL_PORT = {"udp": 7, "tcp": 7, "bulk": 7}
USUAL_HZ = 1000.0
CONNECT_HZ = 100.0  # each is work for the service, and a line in its log
_KIND = re.compile(rf"({'|'.join(NAMES)})(?::(\d{{1,5}}))?")
_URL = re.compile(rf"({'|'.join(NAMES)})://([^/]+)(/.*)?")
_HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Wish:
    """One way of asking. `address` None: the VM's own, which is to be found."""

    kind: str
    address: str | None = None
    port: int | None = None
    path: str = "/"

    def target(self, address: str) -> str:
        """What the probe is told, as `probe.target` reads it; `address` is used where the wish names none."""
        host = self.address or address
        if self.kind in WITHOUT_PORT:
            return host
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        if self.kind == "http":
            return f"http://{host}{f':{self.port}' if self.port else ''}{self.path}"
        return f"{host}:{self.port}"


def usual_hz(kind: str) -> float:
    """How many times a second to ask where the user did not say."""
    return CONNECT_HZ if kind == "connect" else USUAL_HZ


def parse_wish(text: str) -> Wish:
    """Read one value of `--probe`; empty means ICMP of the VM's address. Raises ValueError that says what is wrong."""
    if not text:
        return Wish("icmp")
    if match := _KIND.fullmatch(text):
        return _checked(Wish(match[1], port=int(match[2]) if match[2] else USUAL_PORT.get(match[1])))
    if match := _URL.fullmatch(text):
        kind, rest, path = match[1], match[2], match[3]
        host, port = _split(rest)
        if path and path != "/" and kind != "http":
            raise ValueError(f"{text}: only http has a path")
        return _checked(Wish(kind, host, port or USUAL_PORT.get(kind), path or "/"))
    host, port = _split(text)
    if port or "/" in text or not host:
        raise ValueError(f"{text}: say how to ask, as in udp://{text}, tcp://{text} or connect://{text}")
    return Wish("icmp", host)


def _checked(wish: Wish) -> Wish:
    if wish.kind in WITHOUT_PORT and wish.port:
        raise ValueError(f"{wish.kind} has no port")
    if wish.kind == "connect" and not wish.port:
        raise ValueError("connect needs a port, as in connect:22")
    if wish.port and wish.port > _HIGHEST_PORT:
        raise ValueError(f"there is no port {wish.port}")
    return wish


def _split(text: str) -> tuple[str, int | None]:
    """Return the host without brackets, and the port if there is one."""
    match = re.fullmatch(r"\[([^\]]+)\](?::(\d{1,5}))?|([^:]+):(\d{1,5})", text)
    if match is None:
        return text, None
    port = match[2] or match[4]
    return match[1] or match[3], int(port) if port else None
