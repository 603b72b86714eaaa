"""A guest's state saved to a file or a pipe, and loaded from it, by descriptors that QEMU is given."""

import os
from pathlib import Path
from typing import Any

import pytest

from bascule.qemu.migration_control import MigrationControl, MigrationParameters
from bascule.qemu.process import QemuExited
from bascule.qemu.qmp import QmpError

pytestmark = pytest.mark.lab

TO_FILE = MigrationParameters(return_path=False)
HEADER = b"a header of ours\n"


async def save(bench: Any, features: Any, path: Path) -> Any:
    """Save a busy guest, stopped before, behind a header in `path`; returns its machine."""
    machine = await bench.launch_busy("saved", extra=bench.disk())
    await machine.stop_vcpus()
    control = MigrationControl(machine, features)
    await control.prepare(TO_FILE)
    with path.open("wb", buffering=0) as file:
        file.write(HEADER)
        await control.save_to_fd(file.fileno())
    # QEMU has a duplicate, so that the file may be closed here while it still writes.
    assert (await control.wait_final(deadline_s=30)).status == "completed"
    return machine


async def load(control: MigrationControl, path: Path) -> Any:
    """Load what lies behind the header in `path`; returns how that ended."""
    await control.prepare(TO_FILE)
    with path.open("rb", buffering=0) as file:
        file.seek(len(HEADER))
        await control.load_from_fd(file.fileno())
    return await control.wait_final(deadline_s=30)


async def test_a_saved_guest_is_loaded_paused_and_goes_on(bench: Any, features: Any) -> None:
    path = bench.home / "state"
    saved = await save(bench, features, path)
    counter = await bench.counter(saved)
    assert path.stat().st_size > bench.dirtied_bytes
    with path.open("rb") as file:
        assert file.read(len(HEADER)) == HEADER
    await saved.quit()

    loaded = await bench.launch("loaded", kernel=bench.dirtier, incoming=True, extra=bench.disk())
    assert (await load(MigrationControl(loaded, features), path)).status == "completed"
    assert await loaded.status() == "paused"
    assert await bench.counter(loaded) == counter
    await loaded.let_vcpus_run()
    await bench.guest_runs(loaded)


async def test_a_pipe_carries_a_guest_from_one_qemu_to_another(bench: Any, features: Any) -> None:
    source = await bench.launch_busy("source")
    await source.stop_vcpus()
    loaded = await bench.launch("loaded", kernel=bench.dirtier, incoming=True)
    out, into = MigrationControl(source, features), MigrationControl(loaded, features)
    await out.prepare(TO_FILE)
    await into.prepare(TO_FILE)
    reading, writing = os.pipe()
    try:
        await into.load_from_fd(reading)
        await out.save_to_fd(writing)
    finally:
        os.close(reading)
        os.close(writing)
    assert (await out.wait_final(deadline_s=30)).status == "completed"
    assert (await into.wait_final(deadline_s=30)).status == "completed"
    assert await bench.counter(loaded) == await bench.counter(source)


async def test_a_full_disk_fails_the_save_and_the_stopped_guest_can_run_again(bench: Any, features: Any) -> None:
    machine = await bench.launch_busy("saved", extra=bench.disk())
    await machine.stop_vcpus()
    control = MigrationControl(machine, features)
    await control.prepare(TO_FILE)
    with _open("/dev/full", "wb") as full:
        await control.save_to_fd(full.fileno())
    stats = await control.wait_final(deadline_s=30)
    assert stats.status == "failed"
    # It was stopped by us, so QEMU leaves it to us to run it again.
    assert await machine.status() in {"paused", "postmigrate"}
    await control.restore()
    await machine.let_vcpus_run()
    await bench.guest_runs(machine)


async def test_a_saved_guest_can_run_on_here_instead(bench: Any, features: Any) -> None:
    machine = await save(bench, features, bench.home / "state")
    assert await machine.status() == "postmigrate"
    await machine.let_vcpus_run()
    await bench.guest_runs(machine)


@pytest.mark.parametrize("cut_to", [0, 1000, 20 << 20])
async def test_a_truncated_state_ends_the_loading_qemu_with_its_reason(bench: Any, features: Any, cut_to: int) -> None:
    path = bench.home / "state"
    await (await save(bench, features, path)).quit()
    os.truncate(path, len(HEADER) + cut_to)

    loaded = await bench.launch("loaded", kernel=bench.dirtier, incoming=True, extra=bench.disk())
    with pytest.raises(QemuExited, match=r"load of migration failed|Not a migration stream"):
        await load(MigrationControl(loaded, features), path)


async def test_a_descriptor_of_a_refused_command_is_not_kept(bench: Any, features: Any) -> None:
    machine = await bench.launch("source")
    control = MigrationControl(machine, features)
    before = _open_files(machine)
    with _open("/dev/null", "rb") as file, pytest.raises(QmpError, match="incoming"):
        await control.load_from_fd(file.fileno())
    assert _open_files(machine) == before


def _open(path: str, mode: str) -> Any:
    return Path(path).open(mode, buffering=0)


def _open_files(machine: Any) -> int:
    return len(list(Path(f"/proc/{machine.record.pid}/fd").iterdir()))
