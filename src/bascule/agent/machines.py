"""The VMs that have a QEMU process on this host: start, stop, adopt after a restart, and clean up behind them.

A VM's process, its taps and its directory are made together and end together. The process is noted in the journal
before its vCPUs may run, so that a restarted agent finds every VM that ran. What an agent left half made when it died
is found by `sweep`, through the directories, and ended: it never ran.
"""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any
from weakref import WeakValueDictionary

import structlog

from bascule.agent import frames_in, gate
from bascule.agent.arrival_watch import ArrivalWatch
from bascule.agent.host import Host
from bascule.agent.vm_network import VmNetwork
from bascule.errors import BasculeError, Failed, Refused
from bascule.journal.records import Accelerator, VmRecord
from bascule.network.announcement import announce_again
from bascule.network.handover.place import let_place_go, set_places
from bascule.network.tap import DEFAULT_QUEUE_FRAMES, Tap, open_taps, tap_name
from bascule.network.vhost import has_vhost, open_vhost
from bascule.qemu.command_line import LaunchPaths, build
from bascule.qemu.machine import LaunchSpec, QemuMachine
from bascule.qemu.process import QemuExited, QemuProcess
from bascule.qemu.process_record import ProcessRecord, find_in
from bascule.storage.image_lock import explain_lock_complaint
from bascule.vm.definition import Definition
from bascule.vm.serialise import from_dict, to_dict


@dataclass(eq=False)
class RunningVm:
    """A VM that has a QEMU process here, running, paused or incoming."""

    definition: Definition
    accelerator: Accelerator
    machine: QemuMachine
    taps: list[Tap] = field(default_factory=list)
    has_vhost: bool = False  # the kernel's vhost-net serves its NICs, those that it may
    watch: asyncio.Task[None] | None = None
    keeping: asyncio.Task[None] | None = None
    announcing: asyncio.Task[None] | None = None
    network: VmNetwork = field(default_factory=lambda: VmNetwork((), ()))
    arrival: ArrivalWatch | None = None  # of the last move to here
    busy: str | None = None  # the id of the move that it takes part in
    on_back: list[Callable[[], None]] = field(default_factory=list)  # told when a lost session to QEMU stands again
    before_end: Callable[[], Awaitable[None]] | None = None  # waited for if QEMU ends by itself, before its taps go

    @property
    def uuid(self) -> str:
        """The VM's UUID."""
        return self.definition.uuid

    @property
    def definition_dict(self) -> dict[str, Any]:
        """The definition as JSON."""
        return to_dict(self.definition)

    def served_by_vhost(self) -> list[bool]:
        """For each NIC, whether the kernel serves it and not QEMU."""
        return [self.has_vhost and nic.vhost for nic in self.definition.nics]

    def places(self) -> list[tuple[str, str]]:
        """The VM's taps that are open here, each with the MAC behind it."""
        nics = zip(self.taps, self.definition.nics, strict=False)
        return [(tap.name, nic.mac) for tap, nic in nics if not tap.closed]

    async def announce(self) -> None:
        """Tell the network that this VM's place is here: once now, and a few times more soon after."""
        self.network.announce()
        if self.arrival is not None and self.announcing is not None and not self.announcing.done():
            return  # which announces as well
        self.silence()

        async def again() -> None:
            with suppress(BasculeError):  # the tap may be gone by then, with its VM
                await announce_again(self.network.announce)

        self.announcing = asyncio.create_task(again(), name=f"announce {self.definition.name}")  # noqa: TID251 - owned by this VM: `silence` ends it

    def watch_arrival(self, move_id: str, resumed_us: int, *, guest_can_announce: bool) -> None:
        """The VM runs here after a move: announce it until its frames are seen to arrive. Nothing waits for this."""
        self.silence()
        self.arrival = ArrivalWatch(move_id, self.network, self.machine, resumed_us, guest_can_announce)
        self.announcing = asyncio.create_task(self.arrival.run(), name=f"arrival of {self.definition.name}")  # noqa: TID251 - owned by this VM: `silence` ends it

    def learn_addresses(self) -> None:
        """All taps that can be had are known: learn the guest's addresses from now on."""
        self.network = VmNetwork(self.taps, self.definition.nics)
        self.network.listen()

    def silence(self) -> None:
        """Announce no more, whoever asks for it."""
        if self.arrival is not None:
            self.arrival.leave()
        if self.announcing is not None:
            self.announcing.cancel()
            self.announcing = None

    def keep_session(self) -> None:
        """Hold the session to QEMU open from now on, until `let_go`."""

        def back() -> None:
            structlog.get_logger().info("QEMU answers again", vm=self.definition.name, pid=self.machine.record.pid)
            for tell in tuple(self.on_back):
                tell()

        work = self.machine.keep_session(back)
        self.keeping = asyncio.create_task(work, name=f"session of {self.definition.name}")  # noqa: TID251 - owned by this VM: `let_go` ends it

    def let_go(self) -> None:
        """Announce and learn no more, and leave the session as it is."""
        self.silence()
        self.network.close()
        if self.keeping is not None:
            self.keeping.cancel()
            self.keeping = None


class Machines:
    """All VMs with a process on this host, by UUID."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._running: dict[str, RunningVm] = {}
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._log = structlog.get_logger()

    def get(self, uuid: str) -> RunningVm | None:
        """Return the VM if it has a process here that belongs to this host."""
        return self._running.get(uuid)

    def all(self) -> list[RunningVm]:
        """Return all of them."""
        return list(self._running.values())

    # --- start and stop ----------------------------------------------------------------------------------------------

    async def start(self, record: VmRecord, *, paused: bool = False) -> RunningVm:
        """Start a stopped VM of this host."""
        attempted = f"start vm {record.name}"
        changing = self.changing(record.uuid)
        if record.uuid in self._running or changing.locked():
            raise Refused(f"cannot {attempted}: it has a QEMU process already", f"bascule vm show {record.name}")
        try:
            async with changing:
                vm = await self._start(record, paused=paused)
        except BasculeError as error:
            raise _explained(attempted, error) from error
        if not paused:
            try:
                await vm.announce()
            except BasculeError as error:  # it runs all the same
                self._log.warning("VM cannot be announced", vm=record.name, why=str(error))
        return vm

    async def _start(self, record: VmRecord, *, paused: bool) -> RunningVm:
        definition = from_dict(record.definition)
        accelerator = (await self._host.accelerator(definition.accel)).name
        vm = await self._launch(definition, accelerator, incoming=False)
        try:
            process = vm.machine.record.to_dict()
            await self._host.journal.set_process(record.uuid, process, accelerator, "running")
            if not paused:
                await gate.let_run(self._host, record.uuid, vm.machine)
        except BaseException:
            await self._end(vm)
            await self._host.journal.set_process(record.uuid, None, None, "stopped")
            raise
        self._hold(vm)
        return vm

    def changing(self, uuid: str) -> asyncio.Lock:
        """Return the lock that is held while a VM is started here, or is given away without having run."""
        return self._changing.setdefault(uuid, asyncio.Lock())

    async def stop(self, vm: RunningVm, *, force: bool, timeout_s: float) -> None:
        """Shut the guest down, or end its QEMU at once with `force`."""
        await vm.machine.stop(force=force, timeout_s=timeout_s)
        if vm.watch is not None:
            await asyncio.wait([vm.watch])

    async def destroy(self, vm: RunningVm, before_taps: Callable[[], Awaitable[None]] | None = None) -> None:
        """End this copy, which was refused or runs elsewhere. The journal has been told who owns the VM.

        `before_taps` is waited for when QEMU has ended, before its taps go.
        """
        if vm.watch is not None:
            vm.watch.cancel()
        if self._running.get(vm.uuid) is vm:
            del self._running[vm.uuid]
        await self._end(vm, before_taps)
        self._host.run_marks.forget(vm.uuid)

    async def _launch(
        self,
        definition: Definition,
        accelerator: Accelerator,
        *,
        incoming: bool,
        queue_frames: int = DEFAULT_QUEUE_FRAMES,
    ) -> RunningVm:
        wanted = [
            (tap_name(definition.uuid, number), nic.bridge, nic.queues) for number, nic in enumerate(definition.nics)
        ]
        prepare = frames_in.occupy if incoming else None
        vhost: list[io.FileIO] = []
        taps = await open_taps(wanted, queue_frames=queue_frames, prepare=prepare)
        try:
            vhost = await self._open_vhost(definition)
            try:
                machine = await self._launch_qemu(definition, accelerator, taps, vhost, incoming=incoming)
            except QemuExited as error:
                if not vhost or "vhost-net" not in error.said:
                    raise
                self._log.warning(
                    "QEMU cannot use vhost-net, and serves the NICs itself", vm=definition.name, why=error.said
                )
                while vhost:
                    vhost.pop().close()
                machine = await self._launch_qemu(definition, accelerator, taps, vhost, incoming=incoming)
        except BaseException:
            for tap in taps:
                tap.close()
            raise
        finally:
            for each in vhost:
                each.close()
        vm = RunningVm(definition, accelerator, machine, taps, bool(vhost))
        vm.learn_addresses()
        vm.keep_session()
        return vm

    async def _launch_qemu(
        self,
        definition: Definition,
        accelerator: Accelerator,
        taps: Sequence[Tap],
        vhost: Sequence[io.FileIO],
        *,
        incoming: bool,
    ) -> QemuMachine:
        """Start QEMU with its taps, and with vhost-net for those NICs that it may serve, unless there is none."""
        directory = self._host.vm_directory / definition.name
        fds = [tap.descriptors() for tap in taps]
        unused = iter(vhost)
        vhost_fds = [
            [each.fileno() for each in islice(unused, nic.queues if nic.vhost else 0)] for nic in definition.nics
        ]
        argv = build(
            definition,
            binary=self._host.config.qemu_binary,
            accelerator=accelerator,
            paths=LaunchPaths(str(directory)),
            tap_fds=fds,
            vhost_fds=vhost_fds,
            incoming=incoming,
        )
        passed = tuple(chain.from_iterable((*fds, *vhost_fds)))
        return await QemuMachine.launch(LaunchSpec(tuple(argv), str(directory), self._host.user, passed))

    async def _open_vhost(self, definition: Definition) -> list[io.FileIO]:
        """Open vhost-net for all queues that it may serve; none where this host has none, and QEMU does it."""
        queues = sum(nic.queues for nic in definition.nics if nic.vhost)
        try:
            return await asyncio.to_thread(open_vhost, queues) if queues else []
        except Failed as error:
            self._log.info("QEMU itself serves the NICs", vm=definition.name, why=str(error))
            return []

    def _hold(self, vm: RunningVm) -> None:
        self._running[vm.uuid] = vm
        vm.watch = asyncio.create_task(self._watch(vm), name=f"watch {vm.definition.name}")  # noqa: TID251 - owned by this VM: `destroy` and `close` end it

    async def _watch(self, vm: RunningVm) -> None:
        """When a QEMU ends by itself (the guest powered off, or it crashed), note it and clean up."""
        status = await vm.machine.exited()
        said = vm.machine.process.stderr_tail()
        self._log.info("QEMU ended", vm=vm.definition.name, status=str(status), said=said)
        if self._running.get(vm.uuid) is vm:
            del self._running[vm.uuid]
        try:
            await self._host.journal.set_process(vm.uuid, None, None, "stopped")
        except BasculeError as error:  # the next agent will find that the process is gone
            self._log.warning("the end of a QEMU cannot be written", vm=vm.definition.name, why=str(error))
        if vm.before_end is not None:
            await vm.before_end()  # or `destroy` ends it meanwhile
        await self._end(vm)

    async def _end(self, vm: RunningVm, before_taps: Callable[[], Awaitable[None]] | None = None) -> None:
        vm.let_go()
        try:
            await vm.machine.quit()
            if before_taps is not None:
                await before_taps()
            await vm.machine.discard()
        finally:
            await asyncio.to_thread(_close_all, vm.taps)

    # --- incoming ----------------------------------------------------------------------------------------------------

    async def start_incoming(
        self, definition: Mapping[str, Any], accelerator: Accelerator, queue_frames: int = DEFAULT_QUEUE_FRAMES
    ) -> RunningVm:
        """Start a paused QEMU that waits for a VM's state, and for frames: `queue_frames` of them in each tap."""
        return await self._launch(from_dict(definition), accelerator, incoming=True, queue_frames=queue_frames)

    def take_over(self, vm: RunningVm) -> None:
        """The incoming VM belongs to this host now."""
        if vm.uuid not in self._running:
            self._hold(vm)

    # --- after a restart ---------------------------------------------------------------------------------------------

    async def adopt_all(self) -> None:
        """Find the VMs that an earlier agent of this host has left running, and note those that have ended since."""
        for record in await self._host.journal.vms():
            if record.process is None:
                continue
            try:
                vm = await self.adopt(record.definition, record.process, record.accelerator or "tcg")
            except QemuExited as error:
                if find_in(record.process["directory"]):
                    why = "a VM runs in another process than the journal says; it is left alone: put the newer one back"
                    self._log.error(why, vm=record.name)
                    continue
                self._log.info("VM has ended while the agent was away", vm=record.name, why=str(error))
                await self._note_ended(record.uuid, record.process["directory"])
                continue
            self._hold(vm)
            with suppress(BasculeError):  # held by an agent that died while the VM moved
                await asyncio.to_thread(set_places, let_place_go, vm.places())
            if vm.machine.connected:
                self._log.info("VM adopted", vm=record.name, pid=vm.machine.record.pid)
            else:
                self._log.error("VM adopted; its QEMU does not answer", vm=record.name, pid=vm.machine.record.pid)

    async def _note_ended(self, uuid: str, directory: str) -> None:
        """If that cannot be written, the agent starts all the same, and its next start finds the VM ended again."""
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        try:
            await self._host.journal.set_process(uuid, None, None, "stopped")
        except BasculeError as error:
            self._log.error("the end of a VM cannot be written", vm_uuid=uuid, why=str(error))

    async def adopt(
        self, definition: Mapping[str, Any], process: Mapping[str, Any], accelerator: Accelerator
    ) -> RunningVm:
        """Take over one QEMU that an earlier agent started, with its taps."""
        record = ProcessRecord.from_dict(process)
        machine = await QemuMachine.adopt(record)
        vm = RunningVm(from_dict(definition), accelerator, machine, has_vhost=has_vhost(record.pid))
        vm.keep_session()
        for number, _nic in enumerate(vm.definition.nics):
            name = tap_name(vm.uuid, number)
            try:
                vm.taps.append(await asyncio.to_thread(Tap.from_process, record.pid, name))
            except BasculeError as error:
                self._log.warning("tap not found again; it cannot be announced", tap=name, why=str(error))
                break
        vm.learn_addresses()
        return vm

    async def sweep(self, known: set[str]) -> set[str]:
        """End what an agent left half made when it died: directories that neither the journal nor a move knows.

        Return the UUIDs of VMs that run and that the journal does not know at all: it was replaced. They are spared.
        """
        strays: set[str] = set()
        for directory in sorted(self._host.vm_directory.iterdir()):
            if str(directory) in known or not directory.is_dir():
                continue
            found = find_in(str(directory))
            if stray := {uuid for uuid in map(_uuid_of, found) if uuid is not None and await self._is_stray(uuid)}:
                self._log.error(
                    "a VM runs that the journal does not know; it is left alone: put back the journal that has it",
                    vm_uuids=sorted(stray),
                    directory=str(directory),
                )
                strays |= stray
                continue
            try:
                for record in found:
                    self._log.warning("ending a QEMU that is no VM's of this host", pid=record.pid)
                    with suppress(QemuExited):
                        await QemuProcess.adopt(record).kill()
            except BasculeError as error:  # the kernel keeps it, for a disk that does not answer: what it is in stays
                self._log.error("a QEMU cannot be ended", directory=str(directory), why=str(error))
                continue
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        return strays

    async def _is_stray(self, uuid: str) -> bool:
        """Whether this VM has been let run here, so that it is not half made, and no row of the journal says whose."""
        return self._host.run_marks.may_have_run(uuid) and await self._host.journal.vm_by_uuid(uuid) is None

    async def close(self) -> None:
        """Let go of all VMs, which run on."""
        for vm in self.all():
            vm.let_go()
            if vm.watch is not None:
                vm.watch.cancel()
            await vm.machine.close()
            for tap in vm.taps:
                tap.close()
        self._running.clear()


def _uuid_of(qemu: ProcessRecord) -> str | None:
    """The VM that a QEMU was started for."""
    words = iter(qemu.argv)
    return next((next(words, None) for word in words if word == "-uuid"), None)


def _close_all(taps: Sequence[Tap]) -> None:
    for tap in taps:
        tap.close()


def _explained(attempted: str, error: BasculeError) -> BasculeError:
    """Say in plain words what QEMU said in its own."""
    if (complaint := explain_lock_complaint(error.message)) is not None:
        return Refused(f"cannot {attempted}: {complaint}", "it may run on another host; never start it twice")
    kind = type(error) if isinstance(error, Refused | Failed) and type(error) in (Refused, Failed) else Failed
    return kind(f"cannot {attempted}: {error.message}", error.remedy, error.findings)
