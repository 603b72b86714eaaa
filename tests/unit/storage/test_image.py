"""What needs no qemu-img; the rest is in tests/lab/test_storage.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bascule.storage.image import Fingerprint, check_image, difference

FILE = Fingerprint(
    size_bytes=200704, virtual_size_bytes=10 << 20, filesystem="nfs", device="35", inode=4711, is_block_device=False
)


def test_one_file_seen_by_two_hosts():
    assert difference(FILE, replace(FILE, device="2f", size_bytes=262144)) is None


def test_files_of_different_sizes_differ():
    assert difference(FILE, replace(FILE, virtual_size_bytes=1)) == "the disk has 10485760 bytes here and 1 bytes there"


def test_two_files_at_one_path_differ():
    text = difference(FILE, replace(FILE, inode=4712, filesystem="ext2/ext3"))
    assert text == "it is not one file: inode 4711 (nfs) here, inode 4712 (ext2/ext3) there"


def test_block_devices_have_no_inode_in_common():
    device = replace(FILE, is_block_device=True)
    assert difference(device, replace(device, inode=9)) is None
    assert difference(device, FILE) == "it is a block device on one host and a file on the other"


def test_a_relative_path_is_refused():
    (finding,) = check_image(Path("disk.qcow2"), "qcow2")
    assert finding.subject == "disk disk.qcow2"
    assert finding.problem == "its path is not absolute"


def test_a_missing_file_and_a_missing_directory_are_told_apart(tmp_path: Path):
    (finding,) = check_image(tmp_path / "disk.qcow2", "qcow2")
    assert finding.problem == "it does not exist"
    (finding,) = check_image(tmp_path / "images" / "deep" / "disk.qcow2", "qcow2")
    assert finding.problem == f"there is no {tmp_path / 'images'}"
    (tmp_path / "file").touch()
    (finding,) = check_image(tmp_path / "file" / "disk.qcow2", "qcow2")
    assert finding.problem == f"{tmp_path / 'file'} is not a directory"


def test_a_directory_is_no_image(tmp_path: Path):
    (finding,) = check_image(tmp_path, "raw")
    assert finding.problem == "it is neither a regular file nor a block device"
