"""The lab's guest: a kernel and an initramfs, built from the distribution's packages and kept in a cache.

What the guest does is in `guest`; how to ask for it, in `guest_options`. An image is found again by the versions of
its packages and the content of all sources that it is made of, so a change of any gives a new one. Old ones stay
until somebody removes the folder: a VM may still be defined with them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bascule.errors import Refused
from bascule.lab import guest_apt, guest_kernel, guest_packages, guest_python
from bascule.lab.guest_apt import Package
from bascule.lab.guest_cpio import Node, archive, character_device, directory, file, link

_BUILDERS = ("apt", "cpio", "image", "kernel", "packages", "python")
_SCRATCH = ".building-"
_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "root", "var/run", "var/log")
_SCRIPTS = {
    "etc/inittab": "inittab",
    "etc/boot.sh": "boot.sh",
    "etc/workload.sh": "workload.sh",
    "etc/profile": "profile",
    "etc/acpi/PWRF/00000080": "power-button.sh",  # where busybox's acpid looks when the power button is pressed
}


@dataclass(frozen=True, slots=True)
class GuestImage:
    """The two files that boot the guest; every user may read them."""

    kernel: Path
    initrd: Path


def build(cache: Path, progress: Callable[[str], object] = lambda _message: None) -> GuestImage:
    """The guest image of today's packages and sources, from the folder `cache` if it is there, else built.

    Several may build at once: one does, the others wait for it. `progress` hears what is done, if it takes long.
    Raises `Refused`, with nothing left but complete downloads, if a package is not to be had or a tool is missing.
    """
    if platform.machine() != "x86_64":
        raise Refused(f"cannot build the guest image: this machine is {platform.machine()}, the guest is for x86_64")
    try:
        packages = guest_packages.resolve(cache / "packages.json")
        folder = cache / f"guest-{_key(packages)}"
        if not folder.exists():
            with _lock(cache, progress):
                _remove_scratch(cache)
                if not folder.exists():
                    _build(packages, cache, folder, progress)
    except OSError as error:
        where = error.filename or cache
        attempted = f"cannot build the guest image: {where}: {error.strerror}"
        raise Refused(attempted, "mend that, or use another folder") from error
    return GuestImage(folder / "vmlinuz", folder / "initrd")


def _key(packages: Sequence[Package]) -> str:
    """A name for the image of these packages and of the sources as they are now."""
    digest = hashlib.sha256()
    for package in packages:
        digest.update(f"{package.name}={package.version}\n".encode())
    here = Path(__file__).parent
    builders = [here / f"guest_{part}.py" for part in _BUILDERS]
    guests = [path for path in guest_python.SOURCES.iterdir() if path.is_file()]
    for source in sorted([*builders, *guests]):
        digest.update(f"{source.name} {hashlib.sha256(source.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _build(packages: Sequence[Package], cache: Path, folder: Path, progress: Callable[[str], object]) -> None:
    files = guest_apt.fetch(packages, cache / "packages", progress)
    progress("building the guest image")
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=cache) as scratch:
        tree, result = Path(scratch) / "tree", Path(scratch) / "result"
        guest_apt.unpack(files, tree)
        result.mkdir()
        _write(result / "vmlinuz", guest_kernel.kernel(tree).read_bytes())
        _write(result / "initrd", archive(_content(tree, Path(scratch) / "sources")))
        # The virtual machine's user is another one, whatever our umask.
        result.chmod(0o755)
        result.rename(folder)


def _content(tree: Path, staging: Path) -> dict[str, Node]:
    """Everything in the guest, by path."""
    busybox = next(path for path in (tree / "bin/busybox", tree / "usr/bin/busybox") if path.exists())
    applets = guest_apt.run([str(busybox), "--list"]).split()
    modules = guest_kernel.modules(tree)
    sources = guest_python.SOURCES
    return {
        **{name: directory() for name in _FOLDERS},
        "dev/console": character_device(5, 1),
        **{f"bin/{applet}": link("busybox") for applet in applets},
        "bin/busybox": file(busybox.read_bytes(), executable=True),
        "init": link("bin/busybox"),
        **guest_python.nodes(tree, staging),
        **{f"lib/modules/{name}.ko": file(content) for name, content in modules.items()},
        "lib/modules/order": file("".join(f"{name}\n" for name in modules).encode()),
        **{path: file((sources / name).read_bytes(), executable=True) for path, name in _SCRIPTS.items()},
    }


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as output:
        output.write(content)
        output.flush()
        os.fsync(output.fileno())
    path.chmod(0o644)


@contextlib.contextmanager
def _lock(cache: Path, progress: Callable[[str], object]) -> Iterator[None]:
    """Hold the lock on the folder itself, which leaves no file behind and ends with its holder."""
    descriptor = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another build of the guest image")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_scratch(cache: Path) -> None:
    """Remove what a build that was killed left behind. Only under the lock."""
    for leftover in [*cache.glob(f"{_SCRATCH}*"), *cache.glob("packages/.download-*")]:
        shutil.rmtree(leftover)
