"""A directory, file systems, images and QEMUs for tests of the storage."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user can reach, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="bascule-test-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@contextmanager
def _mounted(directory: Path, options: str) -> Iterator[Path]:
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "bascule-test", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


class Qemu:
    """A QEMU without a guest, and its QMP."""

    def __init__(self, directory: Path, name: str, *options: str) -> None:
        address = directory / f"{name}.sock"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(address))
        listening.listen(1)
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-m", "64", "-nodefaults", "-no-user-config",
             "-display", "none", "-S", "-chardev", f"socket,id=qmp,path={address}", "-mon", "chardev=qmp,mode=control",
             *options],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            listening.settimeout(30)
            self.socket, _ = listening.accept()
        except BaseException:
            self.close()
            raise
        finally:
            listening.close()
            address.unlink()
        self.answers: BinaryIO = self.socket.makefile("rb")
        assert "QMP" in json.loads(self.answers.readline())
        self.ask("qmp_capabilities")

    def ask(self, command: str, arguments: dict[str, object] | None = None, *, descriptor: int | None = None) -> Any:
        request = json.dumps({"execute": command, "arguments": arguments or {}}).encode()
        socket.send_fds(self.socket, [request], [] if descriptor is None else [descriptor])
        while True:
            answer = json.loads(self.answers.readline())
            if "event" not in answer:
                assert "return" in answer, answer
                return answer["return"]

    def wait_for_migration(self) -> str:
        while True:
            status = self.ask("query-migrate").get("status", "none")
            if status in ("completed", "failed"):
                return str(status)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        if hasattr(self, "socket"):
            self.answers.close()
            self.socket.close()


@contextmanager
def _running(directory: Path, name: str, *options: str) -> Iterator[Qemu]:
    qemu = Qemu(directory, name, *options)
    try:
        yield qemu
    finally:
        qemu.close()


def _create_image(path: Path, *options: str, image_format: str = "qcow2", size: str = "10M") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", image_format, *options, path, size], check=True)
    return path


@pytest.fixture
def running() -> Callable[..., AbstractContextManager[Qemu]]:
    """`running(directory, name, *options)`: a QEMU without a guest, ended at the end of the `with`."""
    return _running


@pytest.fixture
def mounted() -> Callable[[Path, str], AbstractContextManager[Path]]:
    """`mounted(directory, options)`: a tmpfs on a new directory, unmounted at the end of the `with`."""
    return _mounted


@pytest.fixture
def create_image() -> Callable[..., Path]:
    """`create_image(path, *options, image_format="qcow2", size="10M")`, by qemu-img."""
    return _create_image
