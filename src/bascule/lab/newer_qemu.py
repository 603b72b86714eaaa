"""The QEMU that the lab runs: the system's, or a newer one of the distribution's backports, unpacked beside it.

A lab's guests run under software emulation, and QEMU before 9.0 counts their dirty pages either wrongly or slowly (see
`qemu.command_line`): the guest stands still for up to seconds when a move begins. A lab is there to show what a move is
like, so where the distribution has a newer QEMU (Debian 12 in its backports), the lab takes that. It is fetched by apt,
which checks its signature, into the cache folder; it is not installed, and the system's apt sources stay as they are.
Without network or backports the lab works with the system's QEMU, only slower.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bascule.errors import BasculeError, Refused
from bascule.lab.guest_apt import run, unpack

SYSTEM = "qemu-system-x86_64"
FIRST_GOOD = (9, 0)
PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")
ASK_AGAIN_S = 24 * 3600
_BINARY = "usr/bin/qemu-system-x86_64"
_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))


def lab_qemu(cache: Path, progress: Callable[[str], object] = lambda _message: None) -> str:
    """Return the QEMU binary that labs run: a program's name or an absolute path. Finding no newer one is no error."""
    if _version(SYSTEM) >= FIRST_GOOD:
        return SYSTEM
    unpacked = cache / "qemu" / _BINARY
    if unpacked.exists():
        return str(unpacked)
    refused = cache / "qemu.refused"
    if refused.exists() and time.time() - refused.stat().st_mtime < ASK_AGAIN_S:
        return SYSTEM
    try:
        _fetch(cache, progress)
    except (BasculeError, OSError) as error:
        progress(f"the lab uses the system's QEMU, which is slower: {error}")
        cache.mkdir(parents=True, exist_ok=True)
        refused.write_text(f"{error}\n")
        return SYSTEM
    return str(unpacked)


def _version(binary: str) -> tuple[int, ...]:
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return ()
    found = re.search(r"version (\d+)\.(\d+)", said)
    return tuple(int(part) for part in found.groups()) if found else ()


def _fetch(cache: Path, progress: Callable[[str], object]) -> None:
    progress("fetching a newer QEMU for the lab from the distribution's backports")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".qemu-", dir=cache) as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)  # QEMU's user enters it
        options = _private_apt(folder)
        run(["apt-get", *options, "-qq", "update"], remedy="check the network")
        for package in PACKAGES:
            run(["apt-get", *options, "-qq", "download", package], cwd=scratch, remedy="check the network")
        tree = folder / "tree"
        tree.mkdir()
        unpack(sorted(folder.glob("*.deb")), tree)
        if _version(str(tree / _BINARY)) < FIRST_GOOD:
            raise Refused("the backports' QEMU is no newer, or does not run on this system")
        shutil.rmtree(cache / "qemu", ignore_errors=True)
        tree.chmod(0o755)
        tree.rename(cache / "qemu")


def _private_apt(folder: Path) -> list[str]:
    """Make a source list for the backports alone, and return the options by which apt uses it and nothing else."""
    codename = _codename()
    for name in ("lists/partial", "archives/partial", "sources"):
        (folder / name).mkdir(parents=True)
    (folder / "sources" / "backports.sources").write_text(_backports(codename))
    return [
        *("-o", f"Dir::Etc::SourceParts={folder / 'sources'}", "-o", "Dir::Etc::SourceList=/dev/null"),
        *("-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder}"),
        *("-o", "APT::Sandbox::User=root", "-o", f"APT::Default-Release={codename}-backports"),
        *("-o", "Acquire::http::Timeout=20"),
    ]


def _codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip('"')
    raise Refused("this system's release has no codename")


def _backports(codename: str) -> str:
    """Write the source of the backports after the system's own source of `codename`: same place, same keys."""
    for path in _SOURCES:
        for file in sorted(path.glob("*.sources")) if path.is_dir() else []:
            for stanza in re.split(r"\n\s*\n", file.read_text()):
                fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.+)$", stanza, re.MULTILINE))
                if codename in fields.get("Suites", "").split() and "deb" in fields.get("Types", "").split():
                    keys = f"Signed-By: {fields['Signed-By']}\n" if "Signed-By" in fields else ""
                    return f"Types: deb\nURIs: {fields['URIs']}\nSuites: {codename}-backports\nComponents: main\n{keys}"
        for file in [path, *sorted(path.glob("*.list"))] if path.exists() else []:
            if file.is_file() and (
                found := re.search(rf"^deb\s+(?:\[.*?\]\s+)?(\S+)\s+{codename}\s", file.read_text(), re.M)
            ):
                return f"Types: deb\nURIs: {found[1]}\nSuites: {codename}-backports\nComponents: main\n"
    raise Refused(f"apt has no source for {codename}", f"see {os.fspath(_SOURCES[1])}")
