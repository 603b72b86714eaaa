"""The copy of a Quick Migration: the VM's state through a pipe to storage that both hosts see, and back into QEMU."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import structlog

from bascule.agent.host import Host, resident_bytes
from bascule.agent.machines import RunningVm
from bascule.agent.shared_storage import identity, state_directory
from bascule.errors import BasculeError, Failed
from bascule.migration.model import Mode, Move, Outcome
from bascule.qemu.migration_control import MigrationControl, MigrationParameters
from bascule.storage.state_file import StateWriter, sweep
from bascule.storage.state_reader import open_checked
from bascule.vm.definition import Definition
from bascule.vm.serialise import from_dict

SAVE_DEADLINE_S = 900.0


async def save_state(host: Host, move: Move, vm: RunningVm, control: MigrationControl) -> tuple[Path, int]:
    """Save the stopped VM's memory and devices; return the file and its bytes once it is durable.

    Raises Failed if it could not be saved; no file is left then, and QEMU's side of the copy has ended.
    """
    directory = state_directory(host, vm.definition)
    expected = resident_bytes(vm.machine.record.pid)
    header = identity(move, vm.definition, vm.accelerator)
    async with await StateWriter.create(directory, header, expected_bytes=expected) as writer:
        await control.prepare(MigrationParameters(return_path=False))
        reading, writing = os.pipe()
        try:
            await control.save_to_fd(writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        try:
            received = await writer.receive(reading)
            stats = await control.wait_final(deadline_s=SAVE_DEADLINE_S)
            if stats.status != "completed":
                raise Failed(f"QEMU could not save the state: {stats.error_desc or stats.status}")
            saved = await writer.commit()
        except BasculeError:
            with suppress(BasculeError):
                await control.cancel()  # until this is final, QEMU would refuse to let the VM run on
            raise
        return saved.path, received


async def load_state(move: Move, state_file: str, control: MigrationControl) -> None:
    """Check the saved state from end to end and begin to load it. QEMU's event tells when it is loaded."""
    state = await open_checked(Path(state_file), vm_uuid=move.vm_uuid, move_id=move.id)
    try:
        await control.prepare(MigrationParameters(return_path=False))
        await control.load_from_fd(state.file)
    finally:
        os.close(state.file)


def remove_saved_state(host: Host, move: Move, definition: Definition) -> None:
    """Remove what a Quick Migration has saved, complete or not, if anything. It blocks: call it in a thread."""
    if move.mode is Mode.QUICK:
        sweep(state_directory(host, definition), {move.id})


async def sweep_saved_state(host: Host, move: Move, definition: Definition) -> None:
    """As `remove_saved_state`, for what an earlier agent may have saved: what cannot be removed is only logged."""
    try:
        await asyncio.to_thread(remove_saved_state, host, move, definition)
    except (BasculeError, OSError) as error:
        structlog.get_logger().warning("saved state cannot be removed", move=move.id, why=str(error))


async def sweep_old_states(host: Host) -> None:
    """Remove what moves of this host that have ended could not remove: the storage had failed, as a rule.

    Raises nothing: what the storage refuses now is only logged, and tried at the agent's next start.
    """
    log = structlog.get_logger()
    try:
        for directory, ended in (await _ended_here(host)).items():
            removed = await asyncio.to_thread(sweep, directory, ended)
            if removed:
                log.info("saved states of ended moves removed", directory=str(directory), files=removed)
    except (BasculeError, OSError) as error:
        log.warning("saved states of ended moves cannot be looked for", why=str(error))


async def _ended_here(host: Host) -> dict[Path, set[str]]:
    """The ids of this host's Quick Migrations that have ended, for each directory that may hold a state of theirs."""
    ended = {
        record.move.id
        for record in await host.journal.moves_in_short()
        if record.side == "source" and record.move.mode is Mode.QUICK and record.outcome not in (None, Outcome.UNKNOWN)
    }
    directories: set[Path] = set()
    for vm in await host.journal.vms():
        with suppress(BasculeError):
            directories.add(state_directory(host, from_dict(vm.definition)))
    return {directory: ended for directory in directories if ended}
