"""The lab's guest with more programs in it: the distribution's packages, unpacked into a second archive of the initrd.

The kernel takes several archives in a row, a later file in place of an earlier one of the same name: so the lab's image
stays as it is, and only the script that starts its workload is another one, which starts the programs first.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bascule.errors import Refused
from bascule.lab import guest_apt
from bascule.lab.guest_apt import Package
from bascule.lab.guest_cpio import Node, archive, file
from bascule.lab.guest_image import GuestImage
from bascule.lab.guest_python import SOURCES
from bascule.lab.guest_vm import GuestVm
from bascule.lab.places import CACHE

_NOT_WANTED = (
    *("adduser", "lsb-base", "dpkg", "debconf", "perl", "init-system-helpers", "sysvinit"),
    *("inetutils-syslogd", "tcpd", "update-inetd"),
)
_LIBRARIES = "lib/x86_64-linux-gnu"
_LOADER = "ld-linux-x86-64.so.2"


@dataclass(frozen=True, slots=True)
class Program:
    """A program of `packages`: the file `binary`, or the first of `alternatives` if that leads out of them.

    `files` are its settings, by path in the guest; `start` is the line of shell that starts it.
    """

    title: str
    packages: tuple[str, ...]
    binary: str
    start: str
    alternatives: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


def with_programs(guest: GuestVm, programs: Sequence[Program], cache: Path = CACHE) -> GuestImage:
    """Give `guest` an image with `programs`, from the cache if it is there. Raises `Refused` as `guest_image` does."""
    plain = guest.build_image(cache)
    packages = {program.title: _packages(program) for program in programs}
    digest = hashlib.sha256(Path(__file__).read_bytes() + plain.initrd.parent.name.encode())
    for program in programs:
        digest.update(repr(program).encode())
        for package in packages[program.title]:
            digest.update(f"{package.name}={package.version}\n".encode())
    initrd = plain.initrd.parent / f"initrd-with-{digest.hexdigest()[:16]}"
    if not initrd.exists():
        with tempfile.TemporaryDirectory(prefix=".programs-", dir=cache) as scratch:
            content = {"etc/workload.sh": _workload(programs)}
            for program in programs:
                tree = Path(scratch) / f"tree-{len(content)}"
                fetched = guest_apt.fetch(packages[program.title], cache / "packages", lambda _message: None)
                guest_apt.unpack(fetched, tree)
                content |= _content(program, tree)
            whole = Path(scratch) / initrd.name
            whole.write_bytes(plain.initrd.read_bytes() + archive(content))
            whole.chmod(0o644)
            whole.replace(initrd)
    image = GuestImage(plain.kernel, initrd)
    guest.use_image(image)
    return image


def _packages(program: Program) -> list[Package]:
    """The program's packages and all that they depend on, as of the host's package lists."""
    chosen: dict[str, Package] = {}
    wanted = list(program.packages)
    while wanted:
        found = guest_apt.show(wanted)
        chosen |= found
        depends = [name for package in found.values() for name in package.depends]
        wanted = [name for name in dict.fromkeys(depends) if name not in chosen and not name.startswith(_NOT_WANTED)]
        if not found:
            break
    if missing := [name for name in program.packages if name not in chosen]:
        attempted = f"cannot build the guest image with {program.title}"
        raise Refused(f"{attempted}: apt does not know {', '.join(missing)}", guest_apt.UPDATE)
    return sorted(chosen.values(), key=lambda package: package.name)


def _workload(programs: Sequence[Program]) -> Node:
    """The script that starts the programs before the lab's own workload."""
    head, command = (SOURCES / "workload.sh").read_text().rsplit("exec ", 1)
    starts = "".join(f"{program.start}\n" for program in programs)
    return file(f"{head}{starts}exec {command}".encode(), executable=True)


def _content(program: Program, tree: Path) -> dict[str, Node]:
    """The program, its libraries and its settings."""
    choices = [(tree / path).resolve() for path in (program.binary, *program.alternatives)]
    binary = next(path for path in choices if path.is_relative_to(tree.resolve()) and path.exists())
    loader = next(path for path in tree.rglob(_LOADER) if not path.is_symlink())
    search = ":".join(str(tree / folder) for folder in (_LIBRARIES, f"usr/{_LIBRARIES}"))
    listing = guest_apt.run([str(loader), "--inhibit-cache", "--library-path", search, "--list", str(binary)])
    content = {program.binary: file(binary.read_bytes(), executable=True)}
    for words in (line.split() for line in listing.splitlines() if "=>" in line):
        if _LOADER not in words[0]:
            path = Path(words[2])
            if not path.resolve().is_relative_to(tree.resolve()):
                attempted = f"cannot build the guest image with {program.title}"
                raise Refused(f"{attempted}: no package chosen holds {words[0]}")
            content[f"{_LIBRARIES}/{words[0]}"] = file(path.read_bytes())
    content[f"lib64/{_LOADER}"] = file(loader.read_bytes(), executable=True)
    return content | {path: file(text.encode()) for path, text in program.files.items()}
