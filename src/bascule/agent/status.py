"""`bascule status`: what is known of a VM on this host, of one or of all.

A VM that is moving is explained by the state of its move (`migration.explain`). Of one at rest the journal and QEMU
tell; what became of its last move stands beside it.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Any

from bascule.agent.destination_move import DestinationMove
from bascule.agent.host import Host
from bascule.agent.http_errors import NotFound
from bascule.agent.machines import RunningVm
from bascule.agent.source_move import SourceMove
from bascule.errors import BasculeError
from bascule.journal.records import VmRecord
from bascule.migration.explain import Choice, Explanation, Standing, explain_destination, explain_source

# QEMU's run states that need more than their name. Those of a migration are never met at rest.
RUN_STATES = {
    "running": ("runs on {host}", ""),
    "paused": ("is paused on {host}", "QEMU was told to stop its vCPUs, or was started with --paused."),
    "io-error": ("stands still on {host}: a disk gave an error", "QEMU stops a guest whose disk is full or gone."),
    "guest-panicked": ("has crashed on {host}: its kernel panicked", ""),
    "internal-error": ("stands still on {host}: QEMU met an error that it cannot go on from", ""),
    "shutdown": ("has shut down on {host}, and its QEMU is still there", ""),
}


async def overview(host: Host) -> list[dict[str, Any]]:
    """Say what is known of every VM that is here, comes in or goes out, by name."""
    names = {record.name for record in await host.journal.vms()} | host.moves.names()
    return list(await asyncio.gather(*(status(host, name) for name in sorted(names))))


async def status(host: Host, name: str) -> dict[str, Any]:
    """Say what is known of a VM here. Raises NotFound for a name that means nothing."""
    outgoing, incoming = host.moves.of_name(name)
    move = outgoing or incoming
    record = await host.journal.vm(name) or await host.journal.handed_over(name)
    explanation = explain_move(move) if move is not None else await _at_rest(host, name, record)
    vm = outgoing.vm if outgoing is not None else host.machines.get(record.uuid) if record is not None else None
    if explanation.standing is Standing.UNKNOWN and vm is not None and vm.machine.process.alive:
        pid = f"Its QEMU on {host.name} is process {vm.machine.record.pid}."
        explanation = replace(explanation, known=(*explanation.known, pid))
    return {
        "vm": name,
        "host": host.name,
        "owner": record.owner if record else None,
        "epoch": record.epoch if record else None,
        "move": move.move.id if move else None,
        **asdict(explanation),
        "standing": explanation.standing.value,
    }


def explain_move(move: SourceMove | DestinationMove) -> Explanation:
    """Explain a VM that is moving."""
    return explain_source(move.state) if isinstance(move, SourceMove) else explain_destination(move.state)


async def _at_rest(host: Host, name: str, record: VmRecord | None) -> Explanation:
    """Explain a VM of which no move is under way."""
    if record is None:
        raise NotFound(
            f"vm {name} is not known to host {host.name}",
            f"see bascule vm list, and ask the other hosts (bascule hosts): bascule status {name}",
        )
    explanation = await _of_record(host, record)
    last = await host.journal.last_move(record.uuid)
    if last is None or last.outcome is None:
        return explanation
    from_to = f"from {last.move.source} to {last.move.destination}"
    reason = f": {last.reason}" if last.reason else ""
    return replace(explanation, known=(*explanation.known, f"Its last move, {from_to}, ended {last.outcome}{reason}."))


async def _of_record(host: Host, record: VmRecord) -> Explanation:
    name = record.name
    if not record.here:
        known = (f"It was handed over to {record.owner} (epoch {record.epoch}). No copy of it is left on {host.name}.",)
        there = (Choice(f"on {record.owner}: bascule status {name}"),)
        return Explanation(f"vm {name} belongs to {record.owner}", Standing.SETTLED, known, choices=there)
    if record.offer is not None:  # its move could not be gone on with after a restart, which the log tells
        return Explanation(
            f"vm {name} is offered to {record.offer.to}, and nothing is under way to settle that",
            known=(f"The agent of {host.name} could not go on with move {record.offer.move_id}; its log says why.",),
            settles=("The agent can go on with the move once what its log complains of is mended.",),
            choices=(
                Choice("mend that, then: systemctl restart bascule-agent", "none: VMs run on without their agent"),
            ),
        )
    explanation = await _of_process(host, record, host.machines.get(record.uuid))
    claim = next((claim for claim in await host.journal.claims() if claim.vm_uuid == record.uuid), None)
    if claim is None:
        return explanation
    return Explanation(
        f"{explanation.summary}, by an operator's word, of which {claim.against} has not heard yet",
        explanation.standing if explanation.standing is Standing.UNKNOWN else Standing.UNDER_WAY,
        (*explanation.known, f"If there is a copy on {claim.against}, it is ended as soon as the agent there answers."),
        (*explanation.settles, f"The agent of {claim.against} answers: it is told again every few seconds."),
        (
            *explanation.choices,
            Choice(
                f"keep {claim.against} down, or start its agent before anything else there",
                f"none; its agent ends the copy there before it does anything else with it, if it reaches {host.name}",
            ),
        ),
    )


async def _of_process(host: Host, record: VmRecord, vm: RunningVm | None) -> Explanation:
    name = record.name
    if vm is None:
        start = Choice(f"bascule vm start {name}", "none: it starts from its disks")
        return Explanation(f"vm {name} belongs to {host.name} and is stopped", Standing.SETTLED, choices=(start,))
    try:
        state = await vm.machine.status()
    except BasculeError as error:
        return Explanation(
            f"vm {name} belongs to {host.name}, and its QEMU does not answer",
            known=(f"The process lives, and may well run the VM. {error.message}.",),
            settles=("QEMU answers again, or ends. A new session to it is tried every second.",),
            choices=(
                Choice("find out why QEMU hangs: its storage, a frozen process"),
                Choice(f"bascule vm stop {name} --force", "what is only in the VM's memory is lost"),
            ),
        )
    summary, why = RUN_STATES.get(state, (f"is {state} on {{host}}", ""))
    known = (why,) if why else ()
    return Explanation(f"vm {name} {summary.format(host=host.name)}", Standing.SETTLED, known)
