"""Images as qemu-img sees them, and what other users may do with them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bascule.errors import Refused
from bascule.storage.access import RunAs, look
from bascule.storage.image import check_image, difference, fingerprint, inspect_image

pytestmark = pytest.mark.lab

NOBODY = RunAs(65534, 65534)
MIB = 1 << 20


def test_an_image_and_what_lies_under_it(directory: Path, create_image: Any):
    base = create_image(directory / "base.qcow2")
    create_image(directory / "middle.qcow2", "-b", str(base), "-F", "qcow2")
    top = create_image(directory / "top.qcow2", "-b", "middle.qcow2", "-F", "qcow2", size="20M")
    info = inspect_image(top, "qcow2")
    assert info.virtual_size_bytes == 20 * MIB
    assert info.backing_files == (str(directory / "middle.qcow2"), str(base))
    assert not info.corrupt
    assert not info.encrypted
    assert check_image(top, "qcow2") == []

    base.unlink()
    (finding,) = check_image(top, "qcow2")
    assert str(base) in finding.problem
    assert "No such file" in finding.problem


def test_a_wrong_format_is_found_both_ways(directory: Path, create_image: Any):
    raw = create_image(directory / "disk.raw", image_format="raw")
    qcow2 = create_image(directory / "disk.qcow2")
    assert check_image(raw, "raw") == []
    (finding,) = check_image(raw, "qcow2")
    assert finding.problem == "it is not in qcow2 format"
    (finding,) = check_image(qcow2, "raw")
    assert finding.problem == "it is defined as raw, but is in qcow2 format"


def test_a_damaged_image_is_found(directory: Path, create_image: Any):
    image = create_image(directory / "disk.qcow2")
    with image.open("r+b") as file:
        file.seek(72 + 7)  # the last byte of the incompatible features, in which bit 1 says corrupt
        file.write(b"\x02")
    (finding,) = check_image(image, "qcow2")
    assert finding.problem == "it is marked as corrupt"
    with image.open("r+b") as file:
        file.truncate(100)
    (finding,) = check_image(image, "qcow2")
    assert finding.problem.startswith("qemu-img cannot read it: Could not open")


def test_encryption_is_found(directory: Path, create_image: Any):
    image = create_image(
        directory / "disk.qcow2",
        "--object", "secret,id=key,data=example",
        "-o", "encrypt.format=aes,encrypt.key-secret=key",
    )  # fmt: skip
    (finding,) = check_image(image, "qcow2")
    assert "encrypted" in finding.problem


def test_what_the_user_of_qemu_may_not_do_is_found(directory: Path, create_image: Any):
    image = create_image(directory / "disk.qcow2")
    image.chmod(0o644)
    (finding,) = check_image(image, "qcow2", user=NOBODY)
    assert finding.problem == f"{NOBODY} may not write to it"
    assert check_image(image, "qcow2", user=NOBODY, read_only=True) == []
    assert check_image(image, "qcow2") == [], "root may"

    image.chmod(0o600)
    (finding,) = check_image(image, "qcow2", user=NOBODY, read_only=True)
    assert finding.problem == f"{NOBODY} may not read it"
    os.chown(image, 0, 4711)
    image.chmod(0o660)
    assert check_image(image, "qcow2", user=NOBODY) != []
    assert check_image(image, "qcow2", user=RunAs(65534, 65534, groups=(4711,))) == []

    os.chown(image, NOBODY.uid, NOBODY.gid)
    image.chmod(0o600)
    assert check_image(image, "qcow2", user=NOBODY) == []
    directory.chmod(0o700)
    (finding,) = check_image(image, "qcow2", user=NOBODY)
    assert finding.problem == f"{NOBODY} may not enter {directory}"


def test_backing_and_data_files_need_the_rights_too(directory: Path, create_image: Any):
    base = create_image(directory / "base.qcow2")
    top = create_image(directory / "top.qcow2", "-b", str(base), "-F", "qcow2")
    data = create_image(directory / "split.qcow2", "-o", f"data_file={directory}/split.raw,data_file_raw=on")
    for path in directory.iterdir():
        os.chown(path, NOBODY.uid, NOBODY.gid)
    assert check_image(top, "qcow2", user=NOBODY) == []
    assert check_image(data, "qcow2", user=NOBODY) == []

    os.chown(base, 0, 0)
    base.chmod(0o600)
    (finding,) = check_image(top, "qcow2", user=NOBODY)
    assert str(base) in finding.problem
    assert "Permission denied" in finding.problem
    os.chown(directory / "split.raw", 0, 0)
    (directory / "split.raw").chmod(0o644)
    (finding,) = check_image(data, "qcow2", user=NOBODY)
    assert finding.subject == f"disk {data}, data file {directory}/split.raw"
    assert finding.problem == f"{NOBODY} may not write to it"


def test_a_read_only_mount_is_found(directory: Path, mounted: Any, create_image: Any):
    with mounted(directory / "mount", "size=8m") as mount:
        image = create_image(mount / "disk.qcow2")
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        (finding,) = check_image(image, "qcow2")
        assert "may not write to it" in finding.problem
        assert check_image(image, "qcow2", read_only=True) == []


def test_access_lists_count(directory: Path):
    """Set without setfacl, which a host need not have: version 2, then owner, one user, group, mask, others."""
    secret = directory / "secret"
    secret.touch(0o600)
    entries = [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 65534),
        (0x04, 0, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
    packed = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + rights.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, rights, who in entries
    )
    os.setxattr(secret, "system.posix_acl_access", packed)
    (by_nobody,) = look([secret], NOBODY)
    (by_another,) = look([secret], RunAs(65533, 65533))
    assert (by_nobody.readable, by_nobody.writable) == (True, False)
    assert not by_another.readable


def test_two_views_of_one_file_and_of_two(directory: Path, create_image: Any):
    one, other = directory / "one", directory / "other"
    one.mkdir()
    other.mkdir()
    image = create_image(one / "disk.qcow2")
    subprocess.run(["mount", "--bind", one, other], check=True)
    try:
        assert difference(fingerprint(image, "qcow2"), fingerprint(other / "disk.qcow2", "qcow2")) is None
    finally:
        subprocess.run(["umount", other], check=True)
    shutil.copy(image, other)
    text = difference(fingerprint(image, "qcow2"), fingerprint(other / "disk.qcow2", "qcow2"))
    assert text is not None
    assert "not one file" in text
    assert fingerprint(image, "qcow2").size_bytes == image.stat().st_size
    with pytest.raises(Refused):
        fingerprint(directory / "none", "qcow2")
