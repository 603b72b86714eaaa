"""`bascule recover`: try at once what waits for its next try, or let an operator decide.

Nobody decides against a host that shows itself: not if its agent answers, whatever it says, and not while anybody
writes to the VM's disks. A confirmation that was typed is no match for either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bascule.agent.destination_move import DestinationMove
from bascule.agent.host import Host
from bascule.agent.peers import NoAnswerError
from bascule.agent.source_move import SourceMove
from bascule.agent.status import explain_move, status
from bascule.errors import BasculeError, Failed, Refused
from bascule.migration import destination, facts, source
from bascule.storage.image_lock import image_use
from bascule.vm.definition import Definition

SETTLE_S = 12.0
ANSWER_S = 3.0
RUN_S = 20.0
LOOK_S = 0.05
MAY_DECIDE = (source.Deciding, source.Unsettled, destination.Loaded)


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
            raise Refused(
                f"cannot run vm {name} on {host.name} by your word: {found['summary']}, and no move of it is unsettled",
                f"see bascule status {name}",
            )
        return found
    if run_here:
        other = move.move.destination if outgoing is not None else move.move.source
        await _refuse_run_here(host, name, move, other, confirmed_down)
        move.deliver(facts.OperatorRunsHere())
        await _wait(lambda: move not in host.moves.of_name(name), RUN_S)
    else:
        move.deliver(facts.RecoverAsked())
        await _wait(lambda: move not in host.moves.of_name(name), SETTLE_S)
    return await status(host, name)


async def _refuse_run_here(
    host: Host, name: str, move: SourceMove | DestinationMove, other: str, confirmed_down: str | None
) -> None:
    attempted = f"run vm {name} on {host.name} by your word"
    look = f"see bascule status {name}"
    if not isinstance(move.state, MAY_DECIDE):
        raise Refused(f"cannot {attempted}: {explain_move(move).summary}", look)
    if confirmed_down != other:
        said = f", and you named {confirmed_down}" if confirmed_down else ""
        raise Refused(
            f"cannot {attempted}: it has to be confirmed that {other} is down{said}",
            f"once you know that it is, type its name when asked, or give --confirm-down {other}",
        )
    peer = move.peer if isinstance(move, SourceMove) else move.record.peer
    move.deliver(facts.RecoverAsked())
    if await _answers(host, peer):
        raise Refused(
            f"cannot {attempted}: {other} is not down, its agent answers",
            f"see what it says there: bascule status {name}",
        )
    if not isinstance(move.state, MAY_DECIDE):
        raise Refused(f"cannot {attempted}: meanwhile the move goes on: {explain_move(move).summary}", look)
    definition = move.vm.definition if isinstance(move, SourceMove) else move.definition
    await asyncio.to_thread(_refuse_held_images, definition, attempted, other)


async def _answers(host: Host, peer: str) -> bool:
    try:
        await host.peers.ask(peer, "GET", "/v1/peer/clock", deadline_s=ANSWER_S)
    except NoAnswerError:
        return False
    except BasculeError:
        return True
    return True


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
                f"cannot {attempted}: its disk {disk.path} is {use}",
                f"the VM runs somewhere: look at {other}. Storage may keep the lock of a dead host for some minutes",
            )


async def _wait(over: Callable[[], bool], at_most_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + at_most_s
    while not over() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - no event for every change
        await asyncio.sleep(LOOK_S)
