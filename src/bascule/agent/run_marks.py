"""Marks that say: a VM's vCPUs may have run on this host at this epoch.

A destination that has taken a VM may give it back only while it is certain that no vCPU of it has run. The certainty
has to outlive both QEMU and the agent, and must cost nothing in the blackout: so the gate makes an empty file just
before it tells QEMU to run, without syncing it. No file, on the same boot, means that nobody was told. After a reboot
the files mean nothing: they lie where the runtime files are, and whoever asks compares the boot.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


class RunMarks:
    """The marks of one host, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self) -> None:
        """Make the directory."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def set(self, uuid: str, epoch: int) -> bool:
        """Mark, and return whether this is the first time."""
        try:
            self._file(uuid, epoch).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def unset(self, uuid: str, epoch: int) -> None:
        """Take a mark back: QEMU itself said that it did not run."""
        self._file(uuid, epoch).unlink(missing_ok=True)

    def may_have_run(self, uuid: str) -> bool:
        """Whether the VM may have run here since `forget`."""
        return next(self._directory.glob(f"{uuid}.*"), None) is not None

    def forget(self, uuid: str) -> None:
        """Remove the marks of all epochs of a VM."""
        for file in self._directory.glob(f"{uuid}.*"):
            file.unlink(missing_ok=True)

    def keep_only(self, uuids: Collection[str]) -> None:
        """Remove the marks of all VMs but these, which an agent that died has left."""
        for file in self._directory.iterdir():
            if file.name.rpartition(".")[0] not in uuids:
                file.unlink(missing_ok=True)

    def _file(self, uuid: str, epoch: int) -> Path:
        return self._directory / f"{uuid}.{epoch}"
