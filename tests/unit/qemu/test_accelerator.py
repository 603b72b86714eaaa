import os
from pathlib import Path

from bascule.qemu.accelerator import newest_kernel


def test_the_newest_kernel_is_taken(tmp_path: Path) -> None:
    assert newest_kernel(tmp_path) is None
    for name, age_s in (("vmlinuz-6.1", 100), ("vmlinuz-6.9", 50), ("vmlinuz-6.10", 10), ("initrd.img-6.11", 0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9 - age_s, 1e9 - age_s))
    assert newest_kernel(tmp_path) == tmp_path / "vmlinuz-6.10"
    (tmp_path / "vmlinuz-7.0").symlink_to(tmp_path / "gone")
    assert newest_kernel(tmp_path) == tmp_path / "vmlinuz-6.10"
