"""A writer for cpio archives in the "newc" format, the one that Linux takes as an initramfs.

Format: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux sources. Written here because it is
forty lines, and so needs no root for a device node and gives the same bytes for the same content.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A file, folder, link or device: `mode` has the type and permissions, `data` the content or the link's target."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory() -> Node:
    """A folder."""
    return Node(stat.S_IFDIR | 0o755)


def file(data: bytes, *, executable: bool = False) -> Node:
    """A regular file."""
    return Node(stat.S_IFREG | (0o755 if executable else 0o644), data)


def link(target: str) -> Node:
    """A symbolic link."""
    return Node(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int) -> Node:
    """A character device that only root may open."""
    return Node(stat.S_IFCHR | 0o600, device=(major, minor))


def archive(nodes: Mapping[str, Node]) -> bytes:
    """The archive of `nodes` by path ("etc/inittab"); the folders that lead to them are added."""
    every = dict(nodes)
    for path in nodes:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            every.setdefault("/".join(parts[:depth]), directory())
    # Sorted, a folder comes before what it holds.
    members = [_member(number, path, every[path]) for number, path in enumerate(sorted(every), start=1)]
    return b"".join([*members, _member(0, "TRAILER!!!", Node(0))])


def _member(number: int, path: str, node: Node) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(node.mode) else 1
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    fields = (number, node.mode, 0, 0, links, 0, len(node.data), 0, 0, *node.device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(node.data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
