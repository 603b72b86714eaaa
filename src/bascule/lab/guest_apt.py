"""Packages by way of the host's apt and dpkg: what there is, fetching it, unpacking it. Nothing is installed."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bascule.errors import Refused

UPDATE = "run `apt-get update` as root and try again"
_LISTS = Path("/var/lib/apt/lists")
_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))


@dataclass(frozen=True, slots=True)
class Package:
    """One package in the version that will be fetched; `depends` has the first choice of each dependency."""

    name: str
    version: str
    depends: tuple[str, ...]


def show(names: Sequence[str]) -> dict[str, Package]:
    """What apt knows of `names`, each in the newest version that can be fetched."""
    try:
        text = run(["apt-cache", "show", *names], remedy=UPDATE)
    except Refused as refusal:
        # "No packages found": not one of them. Anything else is for the user.
        if "No packages found" not in refusal.message:
            raise
        return {}
    found: dict[str, Package] = {}
    for stanza in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] not in " \t")
        # A version without a file is one that is installed here but that no repository has any more.
        if "Filename" in fields and fields["Package"] not in found:
            depends = ", ".join(fields[key] for key in ("Pre-Depends", "Depends") if key in fields)
            found[fields["Package"]] = Package(fields["Package"], fields["Version"], _first_choices(depends))
    return found


def _first_choices(depends: str) -> tuple[str, ...]:
    """The package names in "libc6 (>= 2.35), kmod | busybox, python3:any", of alternatives the first."""
    first = (choice.split("|")[0].split("(")[0].split(":")[0].strip() for choice in depends.split(","))
    return tuple(name for name in first if name)


def stamp() -> list[int]:
    """What changes when the host's package lists or sources do."""
    return [path.stat().st_mtime_ns for path in (_LISTS, *_SOURCES) if path.exists()]


def fetch(packages: Sequence[Package], folder: Path, progress: Callable[[str], object]) -> list[Path]:
    """Download the packages that `folder` lacks, and say so to `progress`; return the files of all.

    Raises `Refused` if the download fails, and then `folder` has gained nothing incomplete.
    """
    missing = [package for package in packages if _file(package, folder) is None]
    if missing:
        progress(f"fetching {', '.join(package.name for package in missing)}")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
            _download(missing, scratch)
            for fetched in Path(scratch).glob("*.deb"):
                fetched.replace(folder / fetched.name)
    files = []
    for package in packages:
        file = _file(package, folder)
        if file is None:
            raise Refused(f"cannot build the guest image: apt-get did not fetch {package.name}", UPDATE)
        files.append(file)
    return files


def unpack(files: Iterable[Path], folder: Path) -> None:
    """Unpack package files into `folder` without running anything of theirs."""
    for file in files:
        run(["dpkg-deb", "--extract", str(file), str(folder)], remedy=f"remove {file} and try again")


def run(
    command: Sequence[str],
    *,
    remedy: str = "",
    if_missing: str = "the guest is made from packages of Debian or Ubuntu: build it there and copy the folder",
    cwd: str | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """Run a program to its end and return its output.

    Raises `Refused` if it fails, with its complaint and `remedy`, or if it is not there, with `if_missing`.
    """
    attempted = f"cannot build the guest image: {Path(command[0]).name} "
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | {"LC_ALL": "C"} if env is None else env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise Refused(f"{attempted}is not on this machine", if_missing) from error
    except OSError as error:
        raise Refused(f"{attempted}cannot be run: {error.strerror}", remedy) from error
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if not line.startswith("W:")]
        raise Refused(f"{attempted}failed: {' '.join(complaints[-3:]) or f'status {done.returncode}'}", remedy)
    return done.stdout


def _file(package: Package, folder: Path) -> Path | None:
    version = package.version.replace(":", "%3a")
    return next(folder.glob(f"{package.name}_{version}_*.deb"), None)


def _download(packages: Sequence[Package], folder: str) -> None:
    command = ["apt-get", "download", "-qq", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20"]
    if os.geteuid() == 0:
        # apt's own user may be unable to write here, which is what apt would fall back from, with a warning.
        command += ["-o", "APT::Sandbox::User=root"]
    command += [f"{package.name}={package.version}" for package in packages]
    run(command, cwd=folder, remedy=f"check the network; if the packages are too old to be had, {UPDATE}")
