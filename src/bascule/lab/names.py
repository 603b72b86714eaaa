"""What a lab's namespaces, addresses and users are called: all of it follows from the lab's name.

    namespace    bsc-<lab>-h1, bsc-<lab>-h2, ..., bsc-<lab>-client, bsc-<lab>-sw
    addresses    10.77.0.<n> for host n, .50 to .99 for guests, .100 for the client; fd77:ba5c:1e::<n> likewise

Because everything is found again by name, a lab whose builder was killed needs no record to be removed.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Self

from bascule.errors import Finding, Refused

DEFAULT_LAB = "lab"
CLIENT = "client"
SWITCH = "sw"
BRIDGE = "br0"
UPLINK = "up0"
MAX_HOSTS = 49  # 10.77.0.50 and above belong to guests
AGENT_PORT = 7440
PREFIX_LENGTH = 24
PREFIX_LENGTH_V6 = 64
CLIENT_NUMBER = 100

# A QEMU socket's path, /var/lib/bascule/lab/<lab>/hosts/h49/run/<vm>/serial.sock, has to stay under 108 bytes.
_NAME = re.compile(r"[a-z][a-z0-9-]{0,18}[a-z0-9]|[a-z]")
_MEMBER = re.compile(rf"h[1-9][0-9]?|{CLIENT}|{SWITCH}")
_NAMESPACE = re.compile(rf"bsc-({_NAME.pattern})-({_MEMBER.pattern})")

# Above every range that distributions and systemd give out (nspawn's ends at 1879048191), below 2^31.
_FIRST_UID = 1_900_000_000
_UID_COUNT = 90_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """One namespace of a lab that has an address: host n, or the client."""

    name: str
    number: int

    @classmethod
    def host(cls, number: int) -> Self:
        """Host `number`, counted from 1."""
        return cls(f"h{number}", number)

    @classmethod
    def client(cls) -> Self:
        """The client, in a namespace of its own."""
        return cls(CLIENT, CLIENT_NUMBER)

    @property
    def address(self) -> str:
        """IPv4 address."""
        return f"10.77.0.{self.number}"

    @property
    def address_v6(self) -> str:
        """IPv6 unique local address (RFC 4193)."""
        return f"fd77:ba5c:1e::{self.number}"

    @property
    def link_local(self) -> str:
        """IPv6 link-local address, given by hand so that no interface waits for its detection of duplicates."""
        return f"fe80::{self.number}"

    @property
    def mac(self) -> str:
        """Locally administered MAC made of the IPv4 address, so that a dump of frames reads well."""
        return f"02:00:0a:4d:00:{self.number:02x}"

    @property
    def listen(self) -> str:
        """`address:port` where this host's agent listens for other agents."""
        return f"{self.address}:{AGENT_PORT}"


def is_name(name: str) -> bool:
    """Whether a lab can be called `name`."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return `name`, or raise `Refused` if no lab can be called so."""
    if not is_name(name):
        raise Refused(
            f"a lab cannot be called {name!r}",
            "a lab's name is 1 to 20 small letters, digits and dashes, starts with a letter and ends without a dash",
        )
    return name


def check_host_count(count: int) -> Finding | None:
    """Return what is wrong with `count` hosts, if anything."""
    if 1 <= count <= MAX_HOSTS:
        return None
    return Finding("hosts", f"there cannot be {count} hosts", f"give a number from 1 to {MAX_HOSTS}")


def namespace(lab: str, member: str) -> str:
    """Return the name of `member`'s network namespace."""
    return f"bsc-{lab}-{member}"


def split_namespace(name: str) -> tuple[str, str] | None:
    """Return (lab, member) of a namespace's name; None for a namespace of somebody else's.

    Unambiguous although labs' names may hold dashes: the last part alone is the member.
    """
    match = _NAMESPACE.fullmatch(name)
    return (match[1], match[2]) if match else None


def qemu_uid(lab: str) -> int:
    """Return the number of the unprivileged user (and group) that the lab's QEMU processes run as."""
    return _FIRST_UID + zlib.crc32(lab.encode()) % _UID_COUNT
