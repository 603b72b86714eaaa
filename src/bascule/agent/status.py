"""`bascule status` and `bascule recover`: what is known of a VM here, and an operator's way out of *unknown*."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bascule.agent.destination_move import DestinationMove
from bascule.agent.host import Host
from bascule.agent.http_errors import NotFound
from bascule.agent.source_move import SourceMove
from bascule.errors import Failed, Refused
from bascule.migration import destination, facts, source
from bascule.migration.explain import Choice, Explanation, explain_destination, explain_source
from bascule.storage.image_lock import image_use
from bascule.vm.definition import Definition

SETTLE_S = 12.0
ANSWER_S = 3.0
RUN_S = 20.0
LOOK_S = 0.05


async def status(host: Host, name: str) -> dict[str, Any]:
    """Say what is known of a VM here. Raises NotFound for a name that means nothing."""
    outgoing, incoming = host.moves.of_name(name)
    record = await host.journal.vm(name) or await host.journal.handed_over(name)
    if outgoing is not None:
        explanation = explain_source(outgoing.state)
    elif incoming is not None:
        explanation = explain_destination(incoming.state)
    else:
        explanation = await _at_rest(host, name)
    move = outgoing or incoming
    return {
        "vm": name,
        "host": host.name,
        "owner": record.owner if record else None,
        "epoch": record.epoch if record else None,
        "move": move.move.id if move else None,
        **asdict(explanation),
    }


async def _at_rest(host: Host, name: str) -> Explanation:
    """Explain a VM of which no move is under way."""
    record = await host.journal.vm(name)
    if record is None:
        gone = await host.journal.handed_over(name)
        if gone is None:
            raise NotFound(f"vm {name} is not known to host {host.name}", "see bascule vm list")
        return Explanation(f"vm {name} belongs to host {gone.owner}, since epoch {gone.epoch}", settled=True)
    for claim in await host.journal.claims():
        if claim.vm_uuid == record.uuid:
            return Explanation(
                f"vm {name} was given to {host.name} by an operator, and {claim.against} has not heard of it yet",
                known=(f"If a copy of it runs on {claim.against}, it is ended as soon as the agent there answers.",),
                settles=(f"The agent of {claim.against} answers: it is told again every few seconds.",),
                choices=(Choice(f"keep {claim.against} down, or end the VM's QEMU there by hand", "none"),),
            )
    vm = host.machines.get(record.uuid)
    if vm is None:
        return Explanation(f"vm {name} belongs to {host.name} and is stopped", settled=True)
    if not vm.machine.connected:
        return Explanation(
            f"vm {name} belongs to {host.name}, and its QEMU does not answer",
            known=(f"The process (pid {vm.machine.record.pid}) lives.",),
            settles=("QEMU answers again, or ends. A new session is tried every second.",),
            choices=(Choice(f"bascule vm stop {name} --force", "what was only in the VM's memory is lost"),),
        )
    return Explanation(f"vm {name} is {await vm.machine.status()} on {host.name}", settled=True)


async def recover(host: Host, name: str, *, run_here: bool, confirmed_down: str | None) -> dict[str, Any]:
    """Try again what waits for its next try; with `run_here` let an operator decide.

    `confirmed_down` is the name of the other host, which the operator has typed. Raises Refused where that is missing
    or wrong, or where this host can see that the VM runs elsewhere; nothing has changed then.
    """
    outgoing, incoming = host.moves.of_name(name)
    move = outgoing or incoming
    if move is None:
        found = await status(host, name)
        if run_here:
            raise Refused(f"cannot run vm {name} here by your word: {found['summary']}; no move of it is unsettled")
        return found
    move.deliver(facts.RecoverAsked())
    if run_here:
        other = move.move.destination if outgoing is not None else move.move.source
        await _refuse_run_here(host, name, move, other, confirmed_down)
        move.deliver(facts.OperatorRunsHere())
        await _wait(lambda: _is_over(move), RUN_S)
    else:
        await _wait(lambda: _is_over(move), SETTLE_S)
    return await status(host, name)


async def _refuse_run_here(
    host: Host, name: str, move: SourceMove | DestinationMove, other: str, confirmed_down: str | None
) -> None:
    attempted = f"run vm {name} on {host.name} by your word"
    if confirmed_down != other:
        raise Refused(
            f"cannot {attempted}: that {other} is down has to be confirmed",
            f"once you know that it is, type its name when asked, or give --confirm-down {other}",
        )
    may_decide = (source.Deciding, source.Unsettled, destination.Loaded)
    if not isinstance(move.state, may_decide):
        why = explain_source(move.state) if isinstance(move, SourceMove) else explain_destination(move.state)
        raise Refused(f"cannot {attempted}: {why.summary}", f"bascule status {name} says what can be done")
    await _wait(lambda: not isinstance(move.state, may_decide), ANSWER_S)  # who answers now is not down
    if not isinstance(move.state, may_decide):
        raise Refused(f"cannot {attempted}: {other} has answered, and the move goes on", f"bascule status {name}")
    definition = move.vm.definition if isinstance(move, SourceMove) else move.definition
    await asyncio.to_thread(_refuse_held_images, definition, attempted, other)


def _refuse_held_images(definition: Definition, attempted: str, other: str) -> None:
    """An image that somebody holds for writing shows that the VM runs, whoever said that its host is down."""
    for disk in definition.disks:
        if disk.read_only:
            continue
        try:
            use = image_use(Path(disk.path))
        except Failed as error:
            raise Refused(f"cannot {attempted}: {error.message}", "make its disks reachable first") from error
        if use.written:
            raise Refused(
                f"cannot {attempted}: its image {disk.path} is {use}",
                f"the VM runs: look at {other}",
            )


def _is_over(move: SourceMove | DestinationMove) -> bool:
    if isinstance(move, SourceMove):
        return isinstance(move.state, source.Ended)
    return isinstance(move.state, destination.Ran | destination.Discarded)


async def _wait(over: Callable[[], bool], at_most_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + at_most_s
    while not over() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - no event for every change
        await asyncio.sleep(LOOK_S)
