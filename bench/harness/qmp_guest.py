"""A guest in bare QEMUs, moved by QMP alone as a policy says. One process does what the manager on both hosts would.

That flatters the managers: their own messages between the hosts, their checks and their records take no time here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bascule.errors import BasculeError, Unknown
from bascule.lab.guest_vm import GuestVm
from bascule.lab.laboratory import Lab
from bascule.network.tap import Tap, tap_name
from bascule.qemu.command_line import LaunchPaths, build
from bascule.qemu.machine import LaunchSpec, QemuMachine
from bascule.qemu.migration_stats import MigrationStats
from bascule.qemu.qmp import QmpError, QmpEvent
from bascule.qemu.user import QemuUser
from bascule.vm.definition import Definition, pin_machine
from bascule.vm.parse import parse
from harness.carers import HOSTS, Moved, other
from harness.controllers import Abort, PollEvery, SetDowntime, StartPostcopy, rule_of
from harness.policies import Policy

CLONE_NEWNET = 0x40000000
PORT = 49900
PATIENCE_S = 30.0
SHORTEST_POLL_S = 0.01
UUID = "00000000-0000-4000-8000-000000000001"


class QmpGuest:
    """The guest, and the QEMU that it runs in now. Use `with`: no QEMU is left."""

    def __init__(self, lab: Lab, guest: GuestVm, binary: str, *, sections: str = "") -> None:
        self.lab, self.guest = lab, guest
        self._binary, self._sections = binary, sections
        self._loop = asyncio.Runner()
        self._machine: QemuMachine | None = None
        self._host = HOSTS[0]
        self._definition: Definition | None = None

    def __enter__(self) -> QmpGuest:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._loop.close()

    def boot(self) -> None:
        text = self.guest.definition(self.lab, self._sections)
        self._definition = pin_machine(parse(text, "bench", UUID), machine_aliases(self._binary))
        self._host = HOSTS[0]
        self._loop.run(self._boot())

    def end(self) -> None:
        if self._machine is not None:
            machine, self._machine = self._machine, None
            self._loop.run(_gone(machine))

    def move(self, policy: Policy, patience_s: float = PATIENCE_S) -> Moved:
        """Move it to the other host as `policy` says. After `patience_s` the attempt is cancelled: it "gave up"."""
        return self._loop.run(self._move(policy, patience_s))

    async def _boot(self) -> None:
        self._machine = await self._launch(HOSTS[0], incoming=False, waits=True)
        await self._machine.execute("cont")
        await asyncio.to_thread(self.guest.wait_ready, Path(self._machine.record.directory) / "serial.log")

    async def _move(self, policy: Policy, patience_s: float) -> Moved:
        assert self._machine is not None
        assert self._definition is not None
        source, target = self._machine, other(self._host)
        begin_ns = time.monotonic_ns()
        waits = policy.runs_by == "manager"
        destination = await self._launch(target, incoming=True, waits=waits, as_root=policy.destination_as_root)
        attempt = Attempt(policy, source, destination, self._definition.memory_mib * 2**20)
        try:
            outcome, reason = await attempt.run(self.lab.host(target).address, patience_s)
        except BaseException:
            await _gone(destination)
            raise
        finally:
            attempt.unsubscribe()
        end_ns = time.monotonic_ns()
        if outcome == "completed":
            self._machine, self._host = destination, target
            await _gone(source)
        else:
            await _gone(destination)
        completed = outcome == "completed"
        return Moved(
            outcome,
            reason,
            begin_ns,
            end_ns,
            total_s=(end_ns - begin_ns) / 1e9 if completed else None,
            blackout_ms=attempt.blackout_ms() if completed else None,
            facts={"refused": attempt.refused, "rounds": attempt.stats.dirty_sync_count, "did": attempt.did},
        )

    async def _launch(self, host: str, *, incoming: bool, waits: bool, as_root: bool = False) -> QemuMachine:
        """Start a QEMU in a host's namespace. A destination that does not wait runs as soon as it has everything."""
        assert self._definition is not None
        uid = self.lab.qemu_uid
        namespace = self.lab.host(host).namespace
        directory = self.lab.places.directory / f"qmp-{host}"
        name = tap_name(self._definition.uuid, 0)

        def open_tap() -> Tap:
            with _inside(namespace):
                return Tap.open(name, "br0")

        with await asyncio.to_thread(open_tap) as tap:
            argv = build(
                self._definition,
                binary=self._binary,
                accelerator="tcg",
                paths=LaunchPaths(str(directory)),
                tap_fds=[tap.descriptors()],
                incoming=incoming,
            )
            if not waits:
                argv.remove("-S")
            user = None if as_root else QemuUser(uid, uid)
            spec = LaunchSpec(tuple(argv), str(directory), user, tap.descriptors())
            with _inside(namespace):  # QEMU inherits the namespace of the thread that starts it
                return await QemuMachine.launch(spec)


class Attempt:
    """One migration between two QEMUs under a policy."""

    def __init__(self, policy: Policy, source: QemuMachine, destination: QemuMachine, memory_bytes: int) -> None:
        self.policy, self.source, self.destination = policy, source, destination
        self.refused: list[str] = []
        self.did: list[str] = []
        self.stats = MigrationStats()
        self._rule = rule_of(policy.rule, policy.rule_settings, memory_bytes)
        self._at_us: dict[str, int] = {}
        self._runs = asyncio.Event()
        self._changed = asyncio.Event()
        self._status = ""
        self._let_run = policy.runs_by == "qemu"
        self._unsubscribe = [
            source.subscribe(lambda event: self._note("source", event)),
            destination.subscribe(lambda event: self._note("destination", event)),
        ]

    def unsubscribe(self) -> None:
        for each in self._unsubscribe:
            each()

    def blackout_ms(self) -> float:
        return (self._at_us["destination RESUME"] - self._at_us["source STOP"]) / 1000

    def _note(self, side: str, event: QmpEvent) -> None:
        self._at_us.setdefault(f"{side} {event.name}", event.at_us)
        if side == "destination" and event.name == "RESUME":
            self._runs.set()
            self._changed.set()
        if side == "source" and event.name == "MIGRATION":
            self._status = event.data["status"]
            self._changed.set()

    async def run(self, address: str, patience_s: float) -> tuple[str, str]:
        """Do it, and return how it ended and why."""
        for machine in (self.destination, self.source):
            await self._prepare(machine)
        await self.destination.execute("migrate-incoming", {"uri": f"tcp:{address}:{PORT}"})
        self._runs.clear()
        started_s = time.monotonic()
        await self.source.execute("migrate", {"uri": f"tcp:{address}:{PORT}"})
        poll_s = self.policy.poll_s
        next_poll_s = started_s + poll_s
        while not self._runs.is_set():
            now_s = time.monotonic()
            if now_s - started_s > patience_s:
                return await self._give_up("gave up", f"not complete within {patience_s:g} s")
            if now_s >= next_poll_s:
                actions = await self._poll(now_s - started_s)
                for action in actions:
                    if isinstance(action, Abort):
                        return await self._give_up("gave up", action.reason)
                    if isinstance(action, PollEvery):
                        poll_s = action.seconds
                next_poll_s = time.monotonic() + poll_s
            self._changed.clear()
            await self._react()
            if self.stats.status == "failed" or self._status == "failed":
                return "failed", self.stats.error_desc or "QEMU said failed"
            wait_s = max(SHORTEST_POLL_S, min(next_poll_s, started_s + patience_s) - time.monotonic())
            if not self._runs.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
        return "completed", ""

    async def _prepare(self, machine: QemuMachine) -> None:
        """Set capabilities, those that the last migration had and this has not off; then the parameters."""
        wanted = set(self.policy.capabilities)
        present = {item["capability"]: item["state"] for item in await machine.execute("query-migrate-capabilities")}
        self.refused += [f"capability {name}: unknown to this QEMU" for name in wanted - present.keys()]
        for name, state in present.items():
            if state != (name in wanted):
                change = {"capabilities": [{"capability": name, "state": name in wanted}]}
                try:
                    await machine.execute("migrate-set-capabilities", change)
                except QmpError as error:
                    self.refused.append(f"capability {name}: {error.description}")
        for name, value in {**DEFAULTS, **self.policy.parameters}.items():
            await machine.execute("migrate-set-parameters", {name: value})

    async def _react(self) -> None:
        """Do at once what a manager that listens to events does at once."""
        if self.policy.notices_by != "events":
            return
        if self._status == "pre-switchover":
            self._status = ""
            await self.source.execute("migrate-continue", {"state": "pre-switchover"})
        if self._status in ("completed", "postcopy-active") and not self._let_run:
            self._let_run = True
            await self.destination.execute("cont")

    async def _poll(self, elapsed_s: float) -> list[Any]:
        """Look as the manager looks, and do what its rule says."""
        self.stats = MigrationStats.read(await self.source.execute("query-migrate"))
        watched = self.stats.status
        if self.policy.notices_by == "poll-destination":
            watched = (await self.destination.execute("query-migrate")).get("status", "")
        if self.policy.notices_by != "events" and watched == "completed" and not self._let_run:
            self._let_run = True
            await self.destination.execute("cont")
        if self.stats.status not in ("active", "device"):
            return []
        actions = self._rule(elapsed_s, self.stats)
        for action in actions:
            self.did.append(f"{elapsed_s:.1f} s: {action}")
            if isinstance(action, SetDowntime):
                await self.source.execute("migrate-set-parameters", {"downtime-limit": action.limit_ms})
            elif isinstance(action, StartPostcopy):
                try:
                    await self.source.execute("migrate-start-postcopy")
                except QmpError as error:
                    self.refused.append(f"migrate-start-postcopy: {error.description}")
        return actions

    async def _give_up(self, outcome: str, reason: str) -> tuple[str, str]:
        """Cancel, and wait until the guest runs on in the source."""
        self.stats = MigrationStats.read(await self.source.execute("query-migrate"))
        await self.source.execute("migrate_cancel")
        async with asyncio.timeout(10):
            while True:
                status = (await self.source.execute("query-migrate")).get("status")
                if status in ("cancelled", "failed") and await self.source.status() == "running":
                    return outcome, reason
                if status == "completed":
                    raise Unknown("the migration completed while it was given up")
                await asyncio.sleep(SHORTEST_POLL_S)


# What QEMU starts with, set before each migration: the one before may have set something else.
DEFAULTS = {
    "downtime-limit": 300,
    "max-bandwidth": 128 * 2**20,
    "max-postcopy-bandwidth": 0,
    "cpu-throttle-initial": 20,
    "cpu-throttle-increment": 10,
    "throttle-trigger-threshold": 50,
    "xbzrle-cache-size": 64 * 2**20,
    "multifd-channels": 2,
}


def machine_aliases(binary: str) -> dict[str, str]:
    """Return which versioned machine each alias stands for."""
    text = subprocess.run([binary, "-M", "help"], capture_output=True, text=True, check=True).stdout
    return {
        line.split()[0]: line.split("(alias of ")[1].rstrip(")") for line in text.splitlines() if "(alias of " in line
    }


async def _gone(machine: QemuMachine) -> None:
    await machine.kill()
    with suppress(BasculeError):
        await machine.discard()


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """Be in a network namespace with this thread, and what it starts with it."""
    with open("/proc/thread-self/ns/net") as own, open(f"/run/netns/{namespace}") as there:  # noqa: PTH123
        _setns(there.fileno())
        try:
            yield
        finally:
            _setns(own.fileno())


def _setns(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
