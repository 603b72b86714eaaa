"""What both sides check before anything changes: all findings together; none means that the move may begin.

The source checks what it can see (the VM, its QEMU, its disks) and sends what the destination needs for its own checks:
CPU features, machine type, accelerator, disks as they look from the source, its clock. Nothing here changes anything:
not the VM, not the network, not a disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bascule.agent.host import Host, memory_mib
from bascule.agent.http_errors import finding_from_dict
from bascule.agent.machines import RunningVm
from bascule.agent.moves import over
from bascule.agent.peers import NoAnswerError
from bascule.agent.shared_storage import check_token, shared_token
from bascule.errors import BasculeError, Failed, Finding, Refused
from bascule.journal.records import move_from_dict, move_to_dict
from bascule.migration.model import Mode, Move
from bascule.network.bridge import check_bridge, sightings
from bascule.storage.access import RunAs, check_readable
from bascule.storage.image import Fingerprint, check_image, difference, fingerprint
from bascule.storage.image_lock import image_use
from bascule.vm.definition import Definition, Disk
from bascule.vm.serialise import from_dict

CLOCK_DIFFERENCE_S = 5.0
QEMU_OVERHEAD_MIB = 64
CHECK_DEADLINE_S = 30.0


class Preflight:
    """The checks of one host, as a source and as a destination."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._qemu = RunAs(host.user.uid, host.user.gid)

    # --- before a start ----------------------------------------------------------------------------------------------

    async def check_start(self, definition: Definition) -> list[Finding]:
        """What keeps this host from starting the VM: its disks, the files that it boots from, its bridges."""
        findings = []
        for disk in definition.disks:
            findings += await asyncio.to_thread(self._check_disk, disk)
            findings += await asyncio.to_thread(_check_held, disk)
        boot = definition.boot
        files = [Path(file) for file in (boot.kernel, boot.initrd) if file is not None] if boot is not None else []
        for file in files:
            findings += await asyncio.to_thread(check_readable, file, self._qemu)
        for bridge in dict.fromkeys(nic.bridge for nic in definition.nics):
            findings += await asyncio.to_thread(check_bridge, bridge)
        return findings

    # --- on the source -----------------------------------------------------------------------------------------------

    async def check(self, move: Move, vm: RunningVm, peer: str, fixed_ms: float) -> tuple[Finding, ...]:
        """Check this side, have the destination check its own, and return what both found.

        `fixed_ms` is what a blackout is expected to take when there is no memory left to send.
        """
        findings = [*await self._check_source(vm), *_check_promise(move, fixed_ms)]
        try:
            async with shared_token(self._host, move, vm, findings) as token:
                facts = await self._facts(vm)
                body = {
                    "move": move_to_dict(move),
                    "definition": vm.definition_dict,
                    "accelerator": vm.accelerator,
                    "facts": {**facts, "token": token},
                }
                asked_s = time.time()
                answer = await self._host.peers.ask(peer, "POST", "/v1/peer/check", body, deadline_s=CHECK_DEADLINE_S)
                findings += [finding_from_dict(finding) for finding in answer["findings"]]
                findings += _clock_findings(move, asked_s, answer["wall_s"], time.time())
        except NoAnswerError as error:
            remedy = f"see that the agent of host {move.destination} runs and can be reached: bascule hosts"
            findings.append(Finding(f"host {move.destination}", str(error), remedy))
        except Refused as error:
            findings.append(Finding(f"host {move.destination}", error.message, error.remedy))
            findings += error.findings
        return tuple(findings)

    async def _check_source(self, vm: RunningVm) -> list[Finding]:
        subject = f"vm {vm.definition.name}"
        try:
            status = await vm.machine.status()
            answer = await vm.machine.execute("query-migrate")
        except BasculeError as error:
            return [Finding(subject, f"its QEMU does not answer: {error.message}", "a hung QEMU cannot be moved")]
        findings = []
        if status != "running":
            findings.append(
                Finding(subject, f"it is {status}, not running", f"bascule vm stop {vm.definition.name}, then start it")
            )
        blockers = answer.get("blocked-reasons", ())
        findings += [Finding(subject, f"QEMU says that it cannot be moved: {blocker}") for blocker in blockers]
        for disk in vm.definition.disks:
            findings += await asyncio.to_thread(self._check_disk, disk)
        return findings

    def _check_disk(self, disk: Disk) -> list[Finding]:
        return check_image(Path(disk.path), disk.format, read_only=disk.read_only, user=self._qemu)

    async def _facts(self, vm: RunningVm) -> dict[str, Any]:
        """What the destination needs to know of this side."""
        definition = vm.definition
        capabilities = await self._host.capabilities(vm.accelerator)
        features = await self._host.probe.features_of(definition.cpu, vm.accelerator)
        disks: dict[str, Any] = {}
        for disk in definition.disks:
            try:
                seen = await asyncio.to_thread(fingerprint, Path(disk.path), disk.format, user=self._qemu)
                disks[disk.path] = asdict(seen)
            except BasculeError:
                disks[disk.path] = None
        return {
            "cpu_vendor": capabilities.cpu_vendor,
            "cpu_features": sorted(features),
            "qemu_version": capabilities.version,
            "disks": disks,
        }

    # --- on the destination ------------------------------------------------------------------------------------------

    async def check_incoming(self, request: Mapping[str, Any]) -> list[Finding]:
        """Check what only the destination can see."""
        move = move_from_dict(request["move"])
        definition = from_dict(request["definition"])
        facts = request["facts"]
        findings = await self._check_place(move, definition)
        findings += await self._check_cpu(definition, request["accelerator"], facts)
        findings += await asyncio.to_thread(self._check_bridges, definition)
        for disk in definition.disks:
            findings += await asyncio.to_thread(self._compare_disk, disk, facts["disks"].get(disk.path))
        if facts.get("token") is not None:
            findings += await asyncio.to_thread(check_token, self._host.name, facts["token"])
        return findings

    async def _check_place(self, move: Move, definition: Definition) -> list[Finding]:
        host, here = self._host, f"host {self._host.name}"
        findings = []
        if move.destination != host.name:
            findings.append(
                Finding(
                    here, f"it is asked as host {move.destination}", "correct [hosts] in the agents' configurations"
                )
            )
        if move.source not in host.config.hosts:
            findings.append(
                Finding(here, f"it does not know host {move.source}", "add it under [hosts] in its configuration")
            )
        named = await host.journal.vm(move.vm)
        if named is not None and named.uuid != move.vm_uuid:
            findings.append(Finding(here, f"it has another VM named {move.vm}", "delete that one, or move it away"))
        if named is not None and named.uuid == move.vm_uuid:
            findings.append(Finding(here, f"vm {move.vm} belongs to it already", "look at both hosts: bascule vm list"))
        others = [other for other in host.moves.incoming_vms() if other.vm == move.vm and other.id != move.id]
        findings += [
            Finding(here, f"move {other.id} of vm {move.vm} to it is under way", "wait for it") for other in others
        ]
        outgoing, _ = host.moves.of_vm(move.vm_uuid)
        if outgoing is not None and not await over(outgoing):
            problem = f"move {outgoing.move.id} of vm {move.vm} from it is not over"
            findings.append(Finding(here, problem, f"wait for it, or see bascule status {move.vm} there"))
        if (host.vm_directory / move.vm).exists() and named is None:
            findings.append(
                Finding(
                    here,
                    f"the folder {host.vm_directory / move.vm} of an earlier QEMU is still there",
                    "wait until that move has ended, or restart the agent, which sweeps it",
                )
            )
        _, free_mib = memory_mib()
        needed_mib = definition.memory_mib + QEMU_OVERHEAD_MIB
        if free_mib < needed_mib:
            findings.append(
                Finding(here, f"it has {free_mib} MiB of memory free, and the VM needs {needed_mib}", "free some there")
            )
        return findings

    async def _check_cpu(self, definition: Definition, accelerator: str, facts: Mapping[str, Any]) -> list[Finding]:
        host, here = self._host, f"host {self._host.name}"
        try:
            choice = await host.accelerator("auto" if accelerator == "kvm" else "tcg")
        except BasculeError as error:
            return [Finding(here, error.message, error.remedy)]
        if choice.name != accelerator:
            return [
                Finding(
                    here,
                    f"the VM runs on {accelerator} and here there is {choice.name} only: {choice.reason}",
                    "a VM never moves between accelerators",
                )
            ]
        capabilities = await host.capabilities(accelerator)
        findings = []
        if definition.machine not in capabilities.machines:
            findings.append(
                Finding(
                    here,
                    f"its QEMU {capabilities.version} has no machine type {definition.machine}",
                    f"install the QEMU of the source, {facts['qemu_version']}, or a newer one",
                )
            )
        if accelerator == "kvm" and capabilities.cpu_vendor != facts["cpu_vendor"]:
            findings.append(
                Finding(
                    here,
                    f"its CPU is from {capabilities.cpu_vendor}, the source's from {facts['cpu_vendor']}",
                    "a running VM moves only between CPUs of one vendor",
                )
            )
        missing = sorted(capabilities.missing_features(definition.cpu, frozenset(facts["cpu_features"])))
        if missing:
            findings.append(
                Finding(
                    here,
                    f"its CPU lacks what the VM uses with cpu = {definition.cpu!r}: {', '.join(missing)}",
                    "define the VM with a CPU model that both hosts have",
                )
            )
        return findings

    def _compare_disk(self, disk: Disk, there: Mapping[str, Any] | None) -> list[Finding]:
        """Check the disk as this host sees it, and that it is the one that the source sees."""
        here = f"host {self._host.name}"
        findings = [Finding(f"{here}, {f.subject}", f.problem, f.remedy) for f in self._check_disk(disk)]
        if findings or there is None:
            return findings
        try:
            seen = fingerprint(Path(disk.path), disk.format, user=self._qemu)
        except BasculeError as error:
            return [Finding(f"{here}, disk {disk.path}", error.message, error.remedy)]
        problem = difference(seen, Fingerprint(**there))
        if problem is None:
            return []
        return [Finding(f"{here}, disk {disk.path}", problem, "mount the same storage at the same place on both hosts")]

    def _check_bridges(self, definition: Definition) -> list[Finding]:
        here = f"host {self._host.name}"
        findings: list[Finding] = []
        for nic in definition.nics:
            problems = check_bridge(nic.bridge)
            findings += [Finding(f"{here}, {p.subject}", p.problem, p.remedy) for p in problems]
            if problems:
                continue
            for sighting in sightings(nic.bridge, nic.mac):
                if sighting.is_tap:
                    findings.append(
                        Finding(
                            f"{here}, bridge {nic.bridge}",
                            f"the MAC {nic.mac} is in use behind {sighting.port}",
                            "two VMs with one MAC cannot share a network; give one of them another",
                        )
                    )
        return findings


def _check_held(disk: Disk) -> list[Finding]:
    """An image that somebody else has open: most likely this very VM runs on another host.

    Where that cannot be asked, QEMU's own lock still keeps the VM from starting; where it can, nothing is begun.
    """
    with suppress(Failed):
        use = image_use(Path(disk.path))
        if use.hinders(read_only=disk.read_only):
            remedy = "it may run on another host; never start it twice"
            return [Finding(f"disk {disk.path}", f"its image is {use}", remedy)]
    return []


def _check_promise(move: Move, fixed_ms: float) -> list[Finding]:
    promise_ms = move.goals.max_blackout_ms
    if move.mode is Mode.QUICK or fixed_ms < promise_ms:
        return []
    return [
        Finding(
            "the longest blackout",
            f"{promise_ms:g} ms cannot be promised: from this host even an idle VM's blackout is expected to take "
            f"{fixed_ms:.1f} ms",
            f"ask for more: --max-blackout {2 * fixed_ms:.0f}ms",
        )
    ]


def _clock_findings(move: Move, asked_s: float, there_s: float, answered_s: float) -> list[Finding]:
    """The other clock's reading was taken between our two; only what lies outside them is a difference."""
    difference_s = max(asked_s - there_s, there_s - answered_s, 0.0)
    if difference_s <= CLOCK_DIFFERENCE_S:
        return []
    return [
        Finding(
            f"host {move.destination}",
            f"its clock differs from that of {move.source} by {difference_s:.1f} s",
            "set both clocks, with chrony or systemd-timesyncd",
        )
    ]
