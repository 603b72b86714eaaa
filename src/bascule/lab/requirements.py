"""What a machine needs for a lab, looked at before anything is touched."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from bascule.errors import Finding, Refused
from bascule.lab.names import qemu_uid
from bascule.lab.namespaces import find_program
from bascule.lab.places import ROOT

TUN = Path("/dev/net/tun")


def check_root(attempted: str) -> None:
    """Raise `Refused` unless this is root."""
    if os.geteuid() != 0:
        raise Refused(f"cannot {attempted}: a lab is made of network namespaces, which only root may make", "use sudo")


def check_machine(lab: str, attempted: str, *, root: Path = ROOT, tun: Path = TUN) -> None:
    """Raise `Refused` with everything that is missing."""
    check_root(attempted)
    findings = [*_missing_programs(), *_missing_tun(tun), *_closed_directories(root), *_taken_user(lab)]
    if findings:
        raise Refused.from_findings(attempted, findings)


def has_ipv6() -> bool:
    """Whether this machine's kernel gives IPv6 to a new namespace."""
    try:
        return Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").read_text().strip() == "0"
    except FileNotFoundError:
        return False


def _missing_programs() -> Iterator[Finding]:
    for name in ("ip", "bridge", "tc"):
        if find_program(name) is None:
            yield Finding(name, "this program is missing", "install it: apt install iproute2")


def _missing_tun(tun: Path) -> Iterator[Finding]:
    try:
        os.close(os.open(tun, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        yield Finding(
            str(tun),
            f"cannot be opened ({error.strerror}), so VMs would have no network",
            "load its module: modprobe tun; in a container, pass the device in",
        )


def _closed_directories(root: Path) -> Iterator[Finding]:
    """Find directories above the lab that QEMU's unprivileged user could not enter."""
    for directory in reversed([root, *root.parents]):
        if directory.exists() and not directory.stat().st_mode & 0o001:
            yield Finding(
                str(directory),
                "QEMU runs unprivileged and could not reach its sockets below",
                f"chmod o+x {directory}",
            )


def _taken_user(lab: str) -> Iterator[Finding]:
    uid = qemu_uid(lab)
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return
    yield Finding("user", f"number {uid} belongs to {entry.pw_name} here", "give the lab another name")
