from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

from bascule.errors import Refused
from bascule.lab import guest_kernel


def module(depends: str = "") -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0retpoline=Y\0"


def test_each_module_comes_after_those_it_depends_on() -> None:
    have = {
        "virtio_net": module("virtio,net_failover,virtio_ring"),
        "net_failover": module("failover"),
        "virtio_ring": module(),
        "virtio": module("virtio-ring"),
        "failover": module(),
        "not_asked": module(),
    }
    order = list(guest_kernel.load_order(["virtio_net"], have.get, built_in=()))
    assert set(order) == have.keys() - {"not_asked"}
    for name in order:
        for needed in guest_kernel.dependencies(have[name]):
            assert order.index(needed) < order.index(name)


def test_what_is_built_in_is_not_loaded() -> None:
    order = guest_kernel.load_order(["a", "b"], {"a": module("c")}.get, built_in={"b", "c"})
    assert list(order) == ["a"]


def test_a_missing_module_is_named_with_who_needs_it() -> None:
    with pytest.raises(Refused, match="virtio_net needs module failover"):
        guest_kernel.load_order(["virtio_net"], {"virtio_net": module("failover")}.get, built_in=())


@pytest.fixture
def kernel_tree(tmp_path: Path) -> Path:
    folder = tmp_path / "lib/modules/6.1.0"
    (folder / "kernel/drivers").mkdir(parents=True)
    built_in = ["kernel/drivers/acpi/button.ko", "kernel/drivers/input/evdev.ko", "kernel/virtio/virtio_balloon.ko"]
    (folder / "modules.builtin").write_text("\n".join([*built_in, "kernel/virtio/virtio_pci.ko"]) + "\n")
    return tmp_path


def test_compressed_modules_are_unpacked_and_names_are_as_the_kernel_has_them(kernel_tree: Path) -> None:
    drivers = kernel_tree / "lib/modules/6.1.0/kernel/drivers"
    (drivers / "virtio-rng.ko.xz").write_bytes(lzma.compress(module()))
    (drivers / "virtio_blk.ko.gz").write_bytes(gzip.compress(module()))
    (drivers / "virtio_net.ko").write_bytes(module())
    assert guest_kernel.modules(kernel_tree) == {
        "virtio_net": module(),
        "virtio_blk": module(),
        "virtio_rng": module(),
    }


@pytest.mark.skipif(not shutil.which("zstd"), reason="needs the program zstd")
def test_modules_compressed_by_zstd_are_unpacked(kernel_tree: Path) -> None:
    drivers = kernel_tree / "lib/modules/6.1.0/kernel/drivers"
    for name in ("virtio_rng", "virtio_blk", "virtio_net"):
        (drivers / f"{name}.ko").write_bytes(module())
        subprocess.run(["zstd", "-q", "--rm", str(drivers / f"{name}.ko")], check=True)
    assert guest_kernel.modules(kernel_tree)["virtio_net"] == module()


def test_without_zstd_the_message_says_what_to_install(kernel_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drivers = kernel_tree / "lib/modules/6.1.0/kernel/drivers"
    (drivers / "virtio_net.ko.zst").write_bytes(b"")
    monkeypatch.setenv("PATH", str(kernel_tree))
    with pytest.raises(Refused, match="zstd is not on this machine") as refused:
        guest_kernel.modules(kernel_tree)
    assert "apt-get install zstd" in refused.value.remedy


def test_the_kernel_is_found_where_either_distribution_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="holds no kernel"):
        guest_kernel.kernel(tmp_path)
    merged = tmp_path / "usr/lib/modules/7.0.0/vmlinuz"
    merged.parent.mkdir(parents=True)
    merged.touch()
    assert guest_kernel.kernel(tmp_path) == merged
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6.1.0").touch()
    assert guest_kernel.kernel(tmp_path) == tmp_path / "boot/vmlinuz-6.1.0"
