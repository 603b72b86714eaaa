"""The storage that both hosts see, where a Quick Migration keeps the VM's saved state.

Two hosts prove that they mean the same storage by a token: the source writes a small file that nobody can guess, the
destination reads it back. The token is gone when the check ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bascule.agent.host import Host, resident_bytes
from bascule.agent.machines import RunningVm
from bascule.errors import BasculeError, Finding, Refused
from bascule.migration.model import Mode, Move
from bascule.storage.shared_directory import Token, free_bytes, read_token, remove_token, token_name, write_token
from bascule.storage.state_header import StateIdentity
from bascule.vm.definition import Definition

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class SharedToken:
    """What the destination needs to know to find the token."""

    directory: str
    name: str
    value: str

    def to_dict(self) -> dict[str, str]:
        """Return it as JSON."""
        return asdict(self)


def state_directory(host: Host, definition: Definition) -> Path:
    """Return where the state of this VM is saved: the first shared directory, or that of the VM's first disk.

    Raises Refused if the host knows of neither.
    """
    if host.config.shared_directories:
        return host.config.shared_directories[0]
    if definition.disks:
        return Path(definition.disks[0].path).parent
    raise Refused(
        f"cannot save the state of vm {definition.name}: host {host.name} knows of no storage that both hosts see",
        "name one as shared_directories in the configuration of both agents",
    )


def identity(move: Move, definition: Definition, accelerator: str) -> StateIdentity:
    """Return what the saved state's header says."""
    return StateIdentity(move.vm_uuid, move.vm, move.epoch, move.id, definition.machine, accelerator)


@asynccontextmanager
async def shared_token(host: Host, move: Move, vm: RunningVm, findings: list[Finding]) -> AsyncIterator[Any]:
    """For a Quick Migration, put a token where the state will be saved, and check the room there.

    Yields the token as JSON, or None if there is none; what is wrong is added to `findings`.
    """
    if move.mode is not Mode.QUICK:
        yield None
        return
    try:
        directory = state_directory(host, vm.definition)
        token = await asyncio.to_thread(write_token, directory, move.id)
    except BasculeError as error:
        findings.append(Finding("shared storage", error.message, error.remedy))
        yield None
        return
    try:
        needed, free = resident_bytes(vm.machine.record.pid), free_bytes(directory)
        if free < needed:
            findings.append(
                Finding(
                    f"shared storage {directory}",
                    f"it has {free // MIB} MiB free, and the saved state may need {needed // MIB} MiB",
                    "make room there, or move the VM live",
                )
            )
        yield SharedToken(str(directory), token.name, token.value).to_dict()
    finally:
        await asyncio.to_thread(remove_token, directory, token)


async def sweep_token(host: Host, move: Move, definition: Definition) -> None:
    """Remove the token of a move whose agent was killed while it checked both sides, if there is one."""
    if move.mode is Mode.QUICK:
        with suppress(BasculeError):  # a file of a few bytes is not worth more
            directory = state_directory(host, definition)
            await asyncio.to_thread(remove_token, directory, Token(token_name(move.id), ""))


def check_token(host_name: str, token: dict[str, str]) -> list[Finding]:
    """Read the source's token here. It blocks: call it in a thread."""
    subject = f"host {host_name}, shared storage {token['directory']}"
    try:
        found = read_token(Path(token["directory"]), token["name"])
    except BasculeError as error:
        return [Finding(subject, error.message, error.remedy)]
    if found == token["value"]:
        return []
    return [
        Finding(
            subject,
            "what the source wrote there does not show here: it is not the same storage",
            "mount the same storage at the same place on both hosts",
        )
    ]
