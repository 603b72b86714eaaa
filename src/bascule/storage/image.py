"""A disk image: what qemu-img tells of it, whether this host's QEMU can use it, whether two hosts mean the same one.

The format is always the one from the VM's definition and never guessed from the content: a guest could write a qcow2
header into its raw disk, and have QEMU open any file of the host as its backing file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from bascule.errors import BasculeError, Finding, Refused
from bascule.storage.access import RunAs, look, run_as, why_not_there

QCOW2_MAGIC = b"QFI\xfb"
_OTHER_FORMAT = re.compile(r"Image is not in \w+ format")


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """One image with the files under it, as qemu-img reads them."""

    path: Path
    format: str
    virtual_size_bytes: int
    backing_files: tuple[str, ...]  # the nearest first
    data_files: tuple[str, ...]  # of qcow2 images that keep their data in a raw file beside them
    corrupt: bool
    encrypted: bool


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What two hosts compare to find out whether one path is one image."""

    size_bytes: int
    virtual_size_bytes: int
    filesystem: str
    device: str
    inode: int
    is_block_device: bool


def inspect_image(path: Path, image_format: str, *, user: RunAs | None = None) -> ImageInfo:
    """Ask qemu-img about an image, as `user`, also while a QEMU writes it. Raises `Refused` with what qemu-img says."""
    try:
        answer = run_as(
            user,
            ["qemu-img", "info", "--force-share", "--backing-chain", "--output=json", "-f", image_format, path],
        )
    except BasculeError as error:
        raise Refused(f"cannot inspect {path}: {error.message}", error.remedy or "apt install qemu-utils") from error
    if answer.returncode != 0:
        complaint = answer.stderr.decode(errors="replace").strip()
        if _OTHER_FORMAT.search(complaint):
            raise Refused(f"it is not in {image_format} format", f"qemu-img info {path}, then mend the definition")
        raise Refused(f"qemu-img cannot read it: {_one_line(complaint)}")
    chain = json.loads(answer.stdout)
    details = [layer.get("format-specific", {}).get("data", {}) for layer in chain]
    return ImageInfo(
        path=path,
        format=chain[0]["format"],
        virtual_size_bytes=chain[0]["virtual-size"],
        backing_files=tuple(layer["filename"] for layer in chain[1:]),
        data_files=tuple(detail["data-file"] for detail in details if "data-file" in detail),
        corrupt=any(detail.get("corrupt", False) for detail in details),
        encrypted=any(layer.get("encrypted", False) for layer in chain),
    )


def check_image(path: Path, image_format: str, *, read_only: bool = False, user: RunAs | None = None) -> list[Finding]:
    """What keeps a QEMU that runs as `user` (None: as this process) on this host from using the image."""
    subject = f"disk {path}"
    try:
        problem = _unusable(path, read_only=read_only, user=user)
        if problem:
            return [Finding(subject, *problem)]
        if image_format == "raw" and run_as(user, ["head", "-c", str(len(QCOW2_MAGIC)), path]).stdout == QCOW2_MAGIC:
            return [Finding(subject, "it is defined as raw, but is in qcow2 format", 'set format = "qcow2"')]
        info = inspect_image(path, image_format, user=user)
        data_problems = [
            (file, _unusable(path.parent / file, read_only=read_only, user=user)) for file in info.data_files
        ]
    except BasculeError as error:
        return [Finding(subject, error.message, error.remedy)]
    findings = [Finding(f"{subject}, data file {file}", *problem) for file, problem in data_problems if problem]
    if info.corrupt:
        findings.append(Finding(subject, "it is marked as corrupt", f"stop the VM, then qemu-img check -r all {path}"))
    if info.encrypted:
        findings.append(Finding(subject, "it is encrypted, which is not supported"))
    return findings


def fingerprint(path: Path, image_format: str, *, user: RunAs | None = None) -> Fingerprint:
    """What this host sees at `path`, to be compared with what another sees. Raises `Refused`."""
    info = inspect_image(path, image_format, user=user)
    of_file = run_as(user, ["stat", "--dereference", "--format=%s %i %D %F", path])
    of_filesystem = run_as(user, ["stat", "--file-system", "--format=%T", path])
    if of_file.returncode or of_filesystem.returncode:
        complaint = (of_file.stderr + of_filesystem.stderr).decode(errors="replace")
        raise Refused(f"cannot inspect {path}: {_one_line(complaint)}")
    size, inode, device, kind = of_file.stdout.decode().strip().split(" ", 3)
    return Fingerprint(
        size_bytes=int(size),
        virtual_size_bytes=info.virtual_size_bytes,
        filesystem=of_filesystem.stdout.decode().strip(),
        device=device,
        inode=int(inode),
        is_block_device=kind == "block special file",
    )


def difference(here: Fingerprint, there: Fingerprint) -> str | None:
    """Why two hosts do not see one image, or None when nothing speaks against it.

    The file's size is not compared, since that of a qcow2 image grows while its VM runs; nor is the device, which each
    host numbers itself. A block device has no inode that means anything elsewhere: a token in the directory proves more
    (see `shared_directory`), and no fingerprint proves that two disks of one size are one disk.
    """
    if here.virtual_size_bytes != there.virtual_size_bytes:
        return f"the disk has {here.virtual_size_bytes} bytes here and {there.virtual_size_bytes} bytes there"
    if here.is_block_device != there.is_block_device:
        return "it is a block device on one host and a file on the other"
    if not here.is_block_device and here.inode != there.inode:
        return (
            f"it is not one file: inode {here.inode} ({here.filesystem}) here, "
            f"inode {there.inode} ({there.filesystem}) there"
        )
    return None


def _unusable(path: Path, *, read_only: bool, user: RunAs | None) -> tuple[str, str] | None:
    """The problem and its remedy."""
    if not path.is_absolute():
        return "its path is not absolute", "write it from / on"
    (access,) = look([path], user)
    who = user or "this user"
    if not access.exists:
        return why_not_there(path, user), ""
    if not (access.is_regular or access.is_block_device):
        return "it is neither a regular file nor a block device", ""
    if not access.readable:
        return f"{who} may not read it", f"give it to {who}, whom QEMU runs as"
    if not read_only and not access.writable:
        return f"{who} may not write to it", f"give it to {who}, whom QEMU runs as, or set read_only = true"
    return None


def _one_line(complaint: str) -> str:
    return "; ".join(line.removeprefix("qemu-img: ").strip() for line in complaint.splitlines())
