"""The choice and fetching of packages, by the real apt on a repository of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bascule.errors import Refused
from bascule.lab import guest_apt, guest_packages
from bascule.lab.guest_apt import Package

pytestmark = pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt and dpkg")

DEBIAN = """
linux-image-cloud-amd64: linux-image-6.1.0-56-cloud-amd64 (= 1)
linux-image-amd64: linux-image-6.1.0-56-amd64 (= 1)
linux-image-6.1.0-56-cloud-amd64: kmod, linux-base (>= 4.3~), initramfs-tools | linux-initramfs-tool
busybox-static:
python3-minimal: dpkg (>= 1.13.20), python3.11-minimal (>= 3.11.2-1~)
python3.11-minimal: libpython3.11-minimal (= 1), libexpat1, zlib1g, libc6 (>= 2.35)
libpython3.11-minimal: libc6 (>= 2.14), libssl3 (>= 3.0.0)
libc6: libgcc-s1
libexpat1: libc6
zlib1g: libc6
"""
UBUNTU = """
linux-image-virtual: linux-image-6.8.0-31-generic
linux-image-6.8.0-31-generic: kmod, linux-modules-6.8.0-31-generic
linux-modules-6.8.0-31-generic:
busybox-static:
python3-minimal: python3.12-minimal
python3.12-minimal: libpython3.12-minimal, libexpat1, zlib1g, libc6
libpython3.12-minimal: libc6
libc6:
libexpat1:
zlib1g:
"""

Repository = Callable[..., Path]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Make the packages of a listing ("name: depends" lines), and let apt know these and no others."""

    def publish(listing: str, installed: str = "") -> Path:
        root = tmp_path / "apt"
        for folder in ("lists/partial", "cache/archives/partial", "state", "repo"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        stanzas = []
        for line in listing.split("\n"):
            if not line:
                continue
            name, depends = line.split(":", 1)
            package = root / "repo" / f"{name}_1%3a2_amd64.deb"
            control = f"Package: {name}\nVersion: 1:2\nArchitecture: amd64\nMaintainer: x\nDescription: x\n"
            if depends.strip():
                control += f"Depends: {depends.strip()}\n"
            content = root / "content"
            (content / "DEBIAN").mkdir(parents=True)
            (content / "DEBIAN/control").write_text(control)
            (content / name).write_text(name)
            subprocess.run(["dpkg-deb", "--build", "-Znone", content, package], check=True, capture_output=True)
            shutil.rmtree(content)
            digest = subprocess.run(["sha256sum", package], check=True, capture_output=True, text=True).stdout.split()[
                0
            ]
            size = package.stat().st_size
            stanzas.append(f"{control}Filename: ./{package.name}\nSize: {size}\nSHA256: {digest}\n")
        (root / "repo/Packages").write_text("\n".join(stanzas))
        (root / "status").write_text(installed)
        (root / "sources.list").write_text(f"deb [trusted=yes] file:{root}/repo ./\n")
        (root / "apt.conf").write_text(
            f'Dir::State "{root}/state"; Dir::State::lists "{root}/lists"; Dir::State::status "{root}/status";\n'
            f'Dir::Cache "{root}/cache"; Dir::Etc::sourcelist "{root}/sources.list"; Dir::Etc::sourceparts "-";\n'
            'Dir::Etc::preferencesparts "-"; APT::Architecture "amd64"; APT::Sandbox::User "";\n'
        )
        monkeypatch.setenv("APT_CONFIG", str(root / "apt.conf"))
        subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)
        return root

    return publish


def test_debian_gives_its_kernel_for_virtual_machines(repository: Repository, tmp_path: Path) -> None:
    repository(DEBIAN)
    assert [package.name for package in guest_packages.resolve(tmp_path / "memory")] == [
        "linux-image-6.1.0-56-cloud-amd64",
        "busybox-static",
        "libc6",
        "libexpat1",
        "libpython3.11-minimal",
        "python3.11-minimal",
        "zlib1g",
    ]


def test_ubuntu_gives_kernel_and_modules_in_two_packages(repository: Repository, tmp_path: Path) -> None:
    repository(UBUNTU)
    names = [package.name for package in guest_packages.resolve(tmp_path / "memory")]
    assert names[:2] == ["linux-image-6.8.0-31-generic", "linux-modules-6.8.0-31-generic"]
    assert "python3.12-minimal" in names


def test_a_version_that_is_only_installed_is_not_chosen(repository: Repository, tmp_path: Path) -> None:
    status = "Package: libc6\nStatus: install ok installed\nVersion: 9:9\nArchitecture: amd64\nMaintainer: x\n"
    repository(DEBIAN, installed=f"{status}Description: x\n")
    chosen = {package.name: package.version for package in guest_packages.resolve(tmp_path / "memory")}
    assert chosen["libc6"] == "1:2"


@pytest.mark.parametrize("missing", ["busybox-static", "python3-minimal", "zlib1g", "libpython3.11-minimal"])
def test_a_package_that_apt_does_not_know_is_named(repository: Repository, tmp_path: Path, missing: str) -> None:
    repository("\n".join(line for line in DEBIAN.split("\n") if not line.startswith(f"{missing}:")))
    with pytest.raises(Refused, match=f"apt does not know {missing}") as refused:
        guest_packages.resolve(tmp_path / "memory")
    assert "apt-get update" in refused.value.remedy
    assert not (tmp_path / "memory").exists()


def test_without_package_lists_the_remedy_is_to_fetch_them(repository: Repository, tmp_path: Path) -> None:
    repository("")
    with pytest.raises(Refused, match="apt knows none of linux-image-cloud-amd64") as refused:
        guest_packages.resolve(tmp_path / "memory")
    assert "apt-get update" in refused.value.remedy


def test_without_apt_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="apt-cache is not on this machine") as refused:
        guest_packages.resolve(tmp_path / "memory")
    assert "Debian or Ubuntu" in refused.value.remedy


def test_the_answer_is_kept_until_the_lists_change(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(DEBIAN)
    memory = tmp_path / "memory"
    answer = guest_packages.resolve(memory)
    with monkeypatch.context() as without_apt:
        without_apt.setenv("PATH", str(tmp_path))
        assert guest_packages.resolve(memory) == answer
        without_apt.setattr(guest_packages, "stamp", lambda: [1, 2, 3])
        with pytest.raises(Refused):
            guest_packages.resolve(memory)
    memory.write_text("{damaged")
    assert guest_packages.resolve(memory) == answer


def test_packages_are_fetched_once_and_unpacked(repository: Repository, tmp_path: Path) -> None:
    root = repository(DEBIAN)
    packages = [Package("libc6", "1:2", ()), Package("zlib1g", "1:2", ())]
    folder = tmp_path / "packages"
    said: list[str] = []
    files = guest_apt.fetch(packages, folder, said.append)
    shutil.rmtree(root / "repo")
    assert guest_apt.fetch(packages, folder, said.append) == files
    assert said == ["fetching libc6, zlib1g"]
    assert sorted(folder.iterdir()) == sorted(files)
    assert {file.stat().st_uid for file in files} == {os.geteuid()}
    guest_apt.unpack(files, tmp_path / "tree")
    assert (tmp_path / "tree/libc6").read_text() == "libc6"
    assert (tmp_path / "tree/zlib1g").read_text() == "zlib1g"


def test_a_failed_download_leaves_nothing_and_says_what_to_do(repository: Repository, tmp_path: Path) -> None:
    root = repository(DEBIAN)
    next((root / "repo").glob("zlib1g_*")).unlink()
    folder = tmp_path / "packages"
    with pytest.raises(Refused, match=r"apt-get failed: .*zlib1g") as refused:
        guest_apt.fetch([Package("libc6", "1:2", ()), Package("zlib1g", "1:2", ())], folder, print)
    assert "check the network" in refused.value.remedy
    assert list(folder.iterdir()) == []


def test_a_damaged_package_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "x_1_amd64.deb"
    broken.write_bytes(b"no package")
    with pytest.raises(Refused, match="dpkg-deb failed") as refused:
        guest_apt.unpack([broken], tmp_path / "tree")
    assert str(broken) in refused.value.remedy
