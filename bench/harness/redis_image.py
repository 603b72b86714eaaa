"""The lab's guest with a real Redis: the distribution's package, unpacked into a second archive of the initrd.

The kernel takes several archives in a row, a later file in place of an earlier one of the same name: so the lab's image
stays as it is, and only the script that starts its workload is another one, which starts Redis first.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from bascule.errors import Refused
from bascule.lab import guest_apt
from bascule.lab.guest_apt import Package
from bascule.lab.guest_cpio import Node, archive, file
from bascule.lab.guest_image import GuestImage
from bascule.lab.guest_python import SOURCES
from bascule.lab.guest_vm import GuestVm
from bascule.lab.places import CACHE

PORT = 6379
_TOOLS, _SERVER = "redis-tools", "redis-server"  # Debian keeps the one binary in the first
_NOT_WANTED = ("adduser", "lsb-base", "dpkg", "debconf", "perl", "init-system-helpers", "sysvinit")
_LIBRARIES = "lib/x86_64-linux-gnu"
_LOADER = "ld-linux-x86-64.so.2"
_OPTIONS = "--protected-mode no --save '' --appendonly no --maxmemory-policy noeviction --daemonize no"


def with_redis(guest: GuestVm, cache: Path = CACHE) -> GuestImage:
    """Give `guest` an image with Redis in it, from the cache if it is there. Raises `Refused` as `guest_image` does."""
    plain = guest.build_image(cache)
    packages = _packages()
    digest = hashlib.sha256(Path(__file__).read_bytes() + plain.initrd.parent.name.encode())
    for package in packages:
        digest.update(f"{package.name}={package.version}\n".encode())
    initrd = plain.initrd.parent / f"initrd-redis-{digest.hexdigest()[:16]}"
    if not initrd.exists():
        with tempfile.TemporaryDirectory(prefix=".redis-", dir=cache) as scratch:
            tree = Path(scratch) / "tree"
            guest_apt.unpack(guest_apt.fetch(packages, cache / "packages", lambda _message: None), tree)
            whole = Path(scratch) / initrd.name
            whole.write_bytes(plain.initrd.read_bytes() + archive(_content(tree)))
            whole.chmod(0o644)
            whole.replace(initrd)
    image = GuestImage(plain.kernel, initrd)
    guest.use_image(image)
    return image


def _packages() -> list[Package]:
    """Redis and all that it depends on, as of the host's package lists."""
    chosen: dict[str, Package] = {}
    wanted = [_TOOLS, _SERVER]
    while wanted:
        found = guest_apt.show(wanted)
        chosen |= found
        depends = [name for package in found.values() for name in package.depends]
        wanted = [name for name in dict.fromkeys(depends) if name not in chosen and not name.startswith(_NOT_WANTED)]
        if not found:
            break
    if _TOOLS not in chosen:
        raise Refused("cannot build the guest image with Redis: apt does not know redis-tools", guest_apt.UPDATE)
    return sorted(chosen.values(), key=lambda package: package.name)


def _content(tree: Path) -> dict[str, Node]:
    """The server, its libraries, and the script that starts it before the lab's own workload."""
    server = (tree / "usr/bin/redis-server").resolve()
    if not server.is_relative_to(tree):
        server = next(path for path in (tree / "usr/bin/redis-check-rdb", tree / "usr/bin/redis-check-aof"))
    loader = next(path for path in tree.rglob(_LOADER) if not path.is_symlink())
    search = ":".join(str(tree / folder) for folder in (_LIBRARIES, f"usr/{_LIBRARIES}"))
    listing = guest_apt.run([str(loader), "--inhibit-cache", "--library-path", search, "--list", str(server)])
    content = {"usr/bin/redis-server": file(server.read_bytes(), executable=True)}
    for words in (line.split() for line in listing.splitlines() if "=>" in line):
        if _LOADER not in words[0]:
            path = Path(words[2])
            if not path.resolve().is_relative_to(tree.resolve()):
                raise Refused(f"cannot build the guest image with Redis: no package chosen holds {words[0]}")
            content[f"{_LIBRARIES}/{words[0]}"] = file(path.read_bytes())
    plain = (SOURCES / "workload.sh").read_text()
    head, command = plain.rsplit("exec ", 1)
    start = f"/usr/bin/redis-server --port {PORT} --bind 0.0.0.0 {_OPTIONS} >/dev/console 2>&1 &\n"
    content["etc/workload.sh"] = file(f"{head}{start}exec {command}".encode(), executable=True)
    content[f"lib64/{_LOADER}"] = file(loader.read_bytes(), executable=True)
    return content
