"""The unprivileged user that QEMU runs as."""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from pathlib import Path

from bascule.errors import Refused

KVM_DEVICE = Path("/dev/kvm")


@dataclass(frozen=True, slots=True)
class QemuUser:
    """Numeric ids: the kernel's view, valid for users that no passwd file knows."""

    uid: int
    gid: int
    extra_groups: tuple[int, ...] = ()


def find_user(name_or_uid: str | int) -> QemuUser:
    """Look up the user `name_or_uid`, and give it the group of /dev/kvm where that group may open the device.

    A number that no user has is taken as uid and gid alike. Raises `Refused` for an unknown name.
    """
    try:
        entry = pwd.getpwuid(int(name_or_uid)) if str(name_or_uid).isdecimal() else pwd.getpwnam(str(name_or_uid))
        uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError:
        if not str(name_or_uid).isdecimal():
            raise Refused(
                f"cannot run QEMU as user {name_or_uid!r}: this host has no such user",
                "name an existing user, or give a number",
            ) from None
        uid = gid = int(name_or_uid)
    return QemuUser(uid, gid, tuple(group for group in _kvm_groups() if group != gid))


def _kvm_groups() -> tuple[int, ...]:
    try:
        status = KVM_DEVICE.stat()
    except OSError:
        return ()
    # Group 0 is never handed out: a device that only root's group may open is not meant for QEMU.
    return (status.st_gid,) if status.st_mode & 0o060 == 0o060 and status.st_gid else ()
