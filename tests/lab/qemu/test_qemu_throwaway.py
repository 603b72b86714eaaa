"""A QEMU that was only asked something does not stay when the agent that asked it dies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bascule.lab.processes import Process
from bascule.qemu import throwaway
from bascule.qemu.capability_probe import idle_machine

pytestmark = pytest.mark.lab


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_what_a_killed_agent_was_asking_is_ended_by_its_successor(tmp_path: Path) -> None:
    (tmp_path / "vms").mkdir()
    asking = idle_machine("qemu-system-x86_64", "tcg", None, tmp_path)
    machine = await asking.__aenter__()
    process = Process.of(machine.record.pid)
    assert process is not None
    assert [name for name in names(tmp_path) if name.startswith(throwaway.ASKED)]
    assert await throwaway.sweep(tmp_path) == [machine.record.pid]
    assert not process.is_alive()
    assert names(tmp_path) == ["vms"]
    assert await throwaway.sweep(tmp_path) == []
    async with asyncio.timeout(30):
        await asking.__aexit__(None, None, None)


async def test_one_that_nobody_left_is_not_there_afterwards(tmp_path: Path) -> None:
    async with idle_machine("qemu-system-x86_64", "tcg", None, tmp_path) as machine:
        process = Process.of(machine.record.pid)
    assert process is not None
    assert not process.is_alive()
    assert await throwaway.sweep(tmp_path) == []
