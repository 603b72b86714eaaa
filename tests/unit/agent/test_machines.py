"""An agent starts, whatever its predecessor has left and however its host is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bascule.agent import machines
from bascule.agent.machines import Machines
from bascule.errors import Failed, Unknown


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Unkillable:
    async def kill(self) -> None:
        raise Unknown("QEMU (pid 7) has not ended within 10 s")


async def test_a_qemu_that_the_kernel_keeps_stays_and_the_others_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kept", "left", "mine"):
        (tmp_path / name).mkdir()
    kept = str(tmp_path / "kept")
    monkeypatch.setattr(machines, "find_in", lambda folder: [SimpleNamespace(pid=7, argv=())] if folder == kept else [])
    monkeypatch.setattr(machines, "QemuProcess", SimpleNamespace(adopt=lambda _record: Unkillable()))
    host: Any = SimpleNamespace(vm_directory=tmp_path)
    await Machines(host).sweep({str(tmp_path / "mine")})
    assert names_in(tmp_path) == ["kept", "mine"]


async def test_an_agent_starts_though_it_cannot_write_that_a_vm_has_ended(tmp_path: Path) -> None:
    class FullDisk:
        async def set_process(self, *_: object) -> None:
            raise Failed("cannot write the journal: no space left on device")

    folder = tmp_path / "web"
    folder.mkdir()
    host: Any = SimpleNamespace(journal=FullDisk(), vm_directory=tmp_path)
    await Machines(host)._note_ended("uuid", str(folder))
    assert not folder.exists()
