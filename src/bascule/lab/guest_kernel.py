"""The kernel of an unpacked kernel package, and the modules that the guest needs of it."""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable, Container, Sequence
from pathlib import Path

from bascule.errors import Refused
from bascule.lab.guest_apt import run

# What the guest's devices need; modules that these depend on come with them.
_WANTED = ("virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "virtio_balloon", "button", "evdev")


def kernel(tree: Path) -> Path:
    """The bootable kernel in `tree`."""
    found = sorted(tree.glob("boot/vmlinuz-*")) or sorted(tree.glob("usr/lib/modules/*/vmlinuz"))
    if not found:
        raise Refused("cannot build the guest image: the kernel's package holds no kernel")
    return found[0]


def modules(tree: Path, wanted: Sequence[str] = _WANTED) -> dict[str, bytes]:
    """Name and content of the modules to load, in that order; those that are built in are left out."""
    folder = next(iter([*tree.glob("lib/modules/*"), *tree.glob("usr/lib/modules/*")]), None)
    if folder is None:
        raise Refused("cannot build the guest image: the kernel's package holds no modules")
    built_in = {_name(line.rsplit("/", 1)[-1]) for line in (folder / "modules.builtin").read_text().split()}
    files = {_name(path.name): path for path in folder.rglob("*.ko*")}

    def read(name: str) -> bytes | None:
        return _read(files[name]) if name in files else None

    return load_order(wanted, read, built_in)


def load_order(
    wanted: Sequence[str], read: Callable[[str], bytes | None], built_in: Container[str]
) -> dict[str, bytes]:
    """The `wanted` modules and what they depend on, each after its dependencies.

    Raises `Refused` for a module that `read` does not have and that is not built in.
    """
    order: dict[str, bytes] = {}

    def add(name: str, needed_by: str) -> None:
        if name in built_in or name in order:
            return
        content = read(name)
        if content is None:
            raise Refused(f"cannot build the guest image: {needed_by} needs module {name}, which the kernel lacks")
        for dependency in dependencies(content):
            add(dependency, name)
        order[name] = content

    for name in wanted:
        add(name, "the guest")
    return order


def dependencies(module: bytes) -> list[str]:
    """The modules that a module's own `depends=` names."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    return [_name(name) for name in match[1].decode().split(",") if name] if match else []


def _name(file_name: str) -> str:
    """The module's name as the kernel has it: "virtio-rng.ko.xz" holds virtio_rng."""
    return file_name.split(".", maxsplit=1)[0].replace("-", "_")


def _read(path: Path) -> bytes:
    """The module's content, unpacked if the distribution compresses its modules."""
    match path.suffix:
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".gz":
            return gzip.decompress(path.read_bytes())
        case ".zst":
            raw = path.with_suffix("")
            run(["zstd", "-dqf", str(path), "-o", str(raw)], if_missing="install it: apt-get install zstd")
            return raw.read_bytes()
        case _:
            return path.read_bytes()
