"""What an operator sees and does on one host: its VMs, its moves, and the other hosts."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict
from typing import Any

from bascule.agent.host import Host
from bascule.agent.http_errors import NotFound
from bascule.agent.machines import RunningVm
from bascule.agent.peers import NoAnswerError
from bascule.errors import BasculeError, Failed, Refused
from bascule.journal.records import MoveRecord, Side, VmRecord
from bascule.migration.model import Move
from bascule.qemu.command_line import LaunchPaths
from bascule.vm.definition import Definition, pin_machine
from bascule.vm.parse import parse
from bascule.vm.serialise import from_dict, to_dict


class Catalogue:
    """Answers to operators. Raises NotFound for names that mean nothing here."""

    def __init__(self, host: Host) -> None:
        self._host = host

    # --- VMs ---------------------------------------------------------------------------------------------------------

    async def define(self, toml: str, origin: str) -> dict[str, Any]:
        """Check a definition, pin its machine type and write it down."""
        definition = parse(toml, origin, str(uuid.uuid4()))
        accelerator = await self._host.accelerator(definition.accel)
        capabilities = await self._host.capabilities(accelerator.name)
        definition = pin_machine(definition, capabilities.machine_aliases())
        self._refuse_cpu(definition, accelerator.name, accelerator.reason, set(capabilities.cpu_models))
        record = VmRecord(definition.uuid, definition.name, to_dict(definition), self._host.name, here=True, epoch=1)
        known = await self._host.journal.vm_by_uuid(definition.uuid)
        if known is not None and not known.here:
            raise Refused(
                f"cannot define vm {definition.name}: the VM with its UUID was moved to host {known.owner}",
                "leave uuid out of the definition to make a new VM",
            )
        incoming = self._host.moves.of_name(definition.name)[1]
        if incoming is not None:  # the name would keep it from being taken, and its copy here may become the last one
            raise Refused(
                f"cannot define vm {definition.name}: move {incoming.move.id} brings a VM of this name here",
                "choose another name",
            )
        await self._host.journal.define(record)
        return await self.vm(definition.name)

    def _refuse_cpu(self, definition: Definition, accelerator: str, why: str, models: set[str]) -> None:
        if definition.cpu == "host" and accelerator != "kvm":
            raise Refused(
                f'cannot define vm {definition.name}: cpu = "host" needs KVM, and this host has {accelerator}: {why}',
                'name a CPU model, such as cpu = "qemu64", or leave cpu out',
            )
        if definition.cpu not in models | {"host", "max"}:
            raise Refused(
                f"cannot define vm {definition.name}: QEMU on this host knows no CPU model {definition.cpu}",
                "qemu-system-x86_64 -cpu help lists them",
            )

    async def vms(self) -> list[dict[str, Any]]:
        """Describe all VMs of this host, those that are just coming in as well."""
        described = [await self._describe(record) for record in await self._host.journal.vms()]
        known = {vm["uuid"] for vm in described}
        incoming = [move for move in self._host.moves.incoming_vms() if move.vm_uuid not in known]
        return described + [self._describe_incoming(move) for move in incoming]

    def _describe_incoming(self, move: Move) -> dict[str, Any]:
        unknown = ("memory_mib", "vcpus", "accelerator", "pid", "serial_socket", "vnc", "definition")
        return {
            "name": move.vm,
            "uuid": move.vm_uuid,
            "state": "incoming",
            "host": self._host.name,
            "epoch": move.epoch,
            "move": move.id,
            **dict.fromkeys(unknown),
        }

    async def vm(self, name: str) -> dict[str, Any]:
        """Describe one VM."""
        return await self._describe(await self._record(name))

    async def _record(self, name: str) -> VmRecord:
        record = await self._host.journal.vm(name)
        if record is not None:
            return record
        gone = await self._host.journal.handed_over(name)
        if gone is not None:
            raise NotFound(
                f"vm {name} is not on host {self._host.name}: it was moved to host {gone.owner}",
                f"ask the agent of host {gone.owner}",
            )
        raise NotFound(f"vm {name} is not known to host {self._host.name}", "see bascule vm list")

    async def _describe(self, record: VmRecord) -> dict[str, Any]:
        definition = from_dict(record.definition)
        vm = self._host.machines.get(record.uuid)
        paths = LaunchPaths(str(self._host.vm_directory / record.name))
        return {
            "name": record.name,
            "uuid": record.uuid,
            "state": await self._state(record, vm),
            "host": self._host.name,
            "epoch": record.epoch,
            "memory_mib": definition.memory_mib,
            "vcpus": definition.vcpus,
            "accelerator": record.accelerator,
            "pid": vm.machine.record.pid if vm else None,
            "serial_socket": str(paths.serial) if vm else None,
            "vnc": str(paths.vnc) if vm and definition.vnc else None,
            "definition": dict(record.definition),
            "network": vm.network.to_json() if vm else [],
            "move": vm.busy if vm else None,
        }

    async def _state(self, record: VmRecord, vm: RunningVm | None) -> str:
        if vm is None:
            return "stopped" if record.process is None else "unknown"
        if vm.busy is not None:
            return "moving-out"
        try:
            status = await vm.machine.status()
        except BasculeError:
            return "unknown"
        return "running" if status == "running" else "paused"

    async def start(self, name: str, *, paused: bool) -> dict[str, Any]:
        """Start a VM."""
        record = await self._record(name)
        if record.offer is not None:
            raise Refused(
                f"cannot start vm {name}: it is offered to host {record.offer.to} and that is not settled",
                "see bascule moves",
            )
        if self._host.machines.get(record.uuid) is None:
            findings = await self._host.preflight.check_start(from_dict(record.definition))
            if findings:
                raise Refused.from_findings(f"start vm {name}", findings)
        await self._host.machines.start(record, paused=paused)
        return await self.vm(name)

    async def stop(self, name: str, *, force: bool, timeout_s: float) -> dict[str, Any]:
        """Stop a VM."""
        record = await self._record(name)
        vm = self._host.machines.get(record.uuid)
        if vm is None:
            return await self.vm(name)
        if vm.busy is not None:
            raise Refused(f"cannot stop vm {name}: move {vm.busy} of it is under way", f"bascule cancel {name}")
        await self._host.machines.stop(vm, force=force, timeout_s=timeout_s)
        return await self.vm(name)

    async def delete(self, name: str) -> None:
        """Forget a stopped VM."""
        record = await self._record(name)
        if record.process is not None or self._host.machines.get(record.uuid) is not None:
            raise Refused(f"cannot delete vm {name}: it runs", f"stop it first: bascule vm stop {name}")
        if any(move.vm_uuid == record.uuid for move in self._host.moves.incoming_vms()):
            raise Refused(f"cannot delete vm {name}: it is just coming in", "see bascule moves")
        if record.offer is not None:
            raise Refused(f"cannot delete vm {name}: a move of it is not settled", "see bascule moves")
        await self._host.journal.delete(record.uuid)
        self._host.run_marks.forget(record.uuid)

    # --- moves -------------------------------------------------------------------------------------------------------

    async def _move(self, move_id: str) -> MoveRecord:
        sides: tuple[Side, ...] = ("source", "destination")
        for side in sides:
            if (record := await self._host.journal.move(move_id, side)) is not None:
                return record
        raise NotFound(f"move {move_id} is not known to host {self._host.name}", "see bascule moves")

    async def move(self, move_id: str) -> dict[str, Any]:
        """Describe one move in short."""
        return self._host.moves.summary(await self._move(move_id))

    async def report(self, move_id: str) -> dict[str, Any]:
        """Return a move's report."""
        record = await self._move(move_id)
        if record.side == "destination":
            raise NotFound(
                f"the report of move {move_id} is kept by host {record.move.source}, where the move began",
                f"run bascule report {move_id} there",
            )
        if record.report is None:
            raise NotFound(f"move {move_id} has no report yet: {record.reason or 'it is under way'}")
        return dict(record.report)

    async def facts(self, move_id: str) -> list[dict[str, Any]]:
        """Return what was recorded of a move."""
        record = await self._move(move_id)
        return [asdict(fact) for fact in await self._host.journal.facts(move_id, record.side)]

    async def set_outage(self, move_id: str, outage: dict[str, Any]) -> dict[str, Any]:
        """Put what a probe saw into the report."""
        await self.report(move_id)  # or why there is none
        await self._host.journal.amend_outage(move_id, outage)
        return {}

    # --- hosts -------------------------------------------------------------------------------------------------------

    async def hosts(self) -> list[dict[str, Any]]:
        """Describe all known hosts; those that do not answer say why."""
        names = {self._host.name: "", **self._host.config.hosts}
        return list(await asyncio.gather(*(self._one_host(name) for name in sorted(names))))

    async def _one_host(self, name: str) -> dict[str, Any]:
        mine = name == self._host.name
        described: dict[str, Any] = {
            "name": name,
            "address": self._host.config.hosts.get(name),
            "reachable": False,
            "version": None,
            "vms": None,
            "accelerator": None,
            "memory_free_mib": None,
            "problem": None,
            "self": mine,
        }
        try:
            if mine:
                about = await self._host.about()
            else:
                address = self._host.config.address_of(name)
                about = await self._host.peers.ask(address, "GET", "/v1/peer/host", deadline_s=3)
        except (NoAnswerError, Failed, Refused) as error:
            return {**described, "problem": str(error)}
        problem = None
        if about["name"] != name:
            problem = f"the agent there says that it is host {about['name']}"
        facts = {key: about[key] for key in ("version", "vms", "accelerator", "memory_free_mib")}
        return {**described, **facts, "reachable": True, "problem": problem}
