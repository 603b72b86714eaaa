from __future__ import annotations

import stat

from bascule.lab.guest_cpio import archive, character_device, directory, file, link

HEAD_BYTES = 110


def members(data: bytes) -> list[tuple[str, int, bytes, tuple[int, int]]]:
    """Read an archive by the format's description: name, mode, content and device of each member."""
    found = []
    at = 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = data[at + HEAD_BYTES : at + HEAD_BYTES + fields[11]]
        assert name.endswith(b"\0")
        start = (at + HEAD_BYTES + fields[11] + 3) & ~3
        content = data[start : start + fields[6]]
        if name == b"TRAILER!!!\0":
            return found
        found.append((name[:-1].decode(), fields[1], content, (fields[9], fields[10])))
        at = (start + fields[6] + 3) & ~3


def test_an_archive_holds_what_was_put_in() -> None:
    read = members(
        archive(
            {
                "init": link("bin/busybox"),
                "bin/busybox": file(b"program", executable=True),
                "etc/motd": file(b"hello"),
                "dev/console": character_device(5, 1),
                "proc": directory(),
            }
        )
    )
    by_name = {name: (mode, content, device) for name, mode, content, device in read}
    assert by_name["init"] == (stat.S_IFLNK | 0o777, b"bin/busybox", (0, 0))
    assert by_name["bin/busybox"] == (stat.S_IFREG | 0o755, b"program", (0, 0))
    assert by_name["etc/motd"] == (stat.S_IFREG | 0o644, b"hello", (0, 0))
    assert by_name["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert by_name["proc"] == (stat.S_IFDIR | 0o755, b"", (0, 0))


def test_each_folder_comes_before_what_it_holds() -> None:
    names = [name for name, *_ in members(archive({"a/b/c": file(b""), "a-b": file(b""), "a/b.c": file(b"")}))]
    assert {"a", "a/b"} < set(names)
    for name in names:
        for parent in (name.rsplit("/", depth)[0] for depth in range(1, name.count("/") + 1)):
            assert names.index(parent) < names.index(name)


def test_the_same_content_gives_the_same_bytes() -> None:
    forwards = archive({"a": file(b"1"), "b/c": file(b"2")})
    assert forwards == archive({"b/c": file(b"2"), "a": file(b"1")})
