"""The distribution's packages that the guest is made of: which, in which version, and where they are fetched to.

Kernel, busybox and Python come as the host's own apt knows and signs them. Nothing is installed and nothing of a
foreign origin is run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from bascule.errors import Refused
from bascule.lab.guest_apt import UPDATE, Package, show, stamp

# The first that apt knows: Debian's for virtual machines, Debian's general one, Ubuntu's for virtual machines.
_KERNELS = ("linux-image-cloud-amd64", "linux-image-amd64", "linux-image-virtual")
# Ubuntu, and Debian's newer kernels, keep the modules or the kernel proper in packages of their own.
_KERNEL_PARTS = ("linux-image-", "linux-modules-", "linux-binary-", "linux-base-")
_BUSYBOX = "busybox-static"
_PYTHON = "python3-minimal"
# Python's package wants these, a guest does not.
_NOT_WANTED = ("dpkg", "libssl")


def resolve(memory: Path) -> list[Package]:
    """The packages for a guest, kernel first, as of the host's package lists.

    Asking apt takes seconds, so the answer is kept in the file `memory` until the lists change.
    Raises `Refused` if there is no apt, or if it does not know a package.
    """
    # A change of the choice itself makes another answer as well.
    now = [*stamp(), Path(__file__).stat().st_mtime_ns]
    try:
        then = json.loads(memory.read_text())
        if then["stamp"] == now:
            return [Package(name, version, tuple(depends)) for name, version, depends in then["packages"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is none, or it is damaged: ask again
    packages = _ask()
    answer = [(package.name, package.version, package.depends) for package in packages]
    memory.parent.mkdir(parents=True, exist_ok=True)
    scratch = memory.with_name(f"{memory.name}.{os.getpid()}")
    scratch.write_text(json.dumps({"stamp": now, "packages": answer}))
    scratch.replace(memory)
    return packages


def _ask() -> list[Package]:
    """What `resolve` returns, asked of apt: a few roots and what they depend on, as far as a guest wants it."""
    roots = show((*_KERNELS, _BUSYBOX, _PYTHON))
    kernel = next((name for name in _KERNELS if name in roots), None)
    if kernel is None:
        raise Refused(f"cannot build the guest image: apt knows none of {', '.join(_KERNELS)}", UPDATE)
    chosen: dict[str, Package] = {}
    wanted = [kernel, _BUSYBOX, _PYTHON]
    while wanted:
        found = {name: roots[name] for name in wanted if name in roots} or show(wanted)
        missing = set(wanted) - found.keys()
        if missing:
            raise Refused(f"cannot build the guest image: apt does not know {', '.join(sorted(missing))}", UPDATE)
        chosen |= found
        parts = [part for package in found.values() for part in _parts(package)]
        wanted = [name for name in dict.fromkeys(parts) if name not in chosen]
    # The kernel's and Python's own packages are empty: they only name the current one.
    packages = [package for name, package in chosen.items() if name not in (*_KERNELS, _PYTHON)]
    return sorted(packages, key=lambda package: (not package.name.startswith("linux-"), package.name))


def _parts(package: Package) -> list[str]:
    """The packages that `package` depends on and that the guest wants as well."""
    if package.name.startswith("linux-"):
        return [name for name in package.depends if name.startswith(_KERNEL_PARTS)]
    if package.name.startswith(("python3", "libpython3")):
        return [name for name in package.depends if not name.startswith(_NOT_WANTED)]
    return []
