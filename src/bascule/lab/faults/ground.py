"""The ground on which cases are tried: a lab of two hosts, a guest that watches itself, and those who watch it.

    with Ground("faults") as ground:
        result = ground.run(Case.parse("live: kill agent@source switching-over+3 for 1000"))
        assert not result.findings, result.story()

The guest goes on from case to case as long as it lives, so that a case begins where the one before has ended. A VM
whose only copy was killed is started again by hand, as its operator would.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from bascule.errors import BasculeError, Failed
from bascule.lab import guest_sequence
from bascule.lab.faults.case import Case, Side
from bascule.lab.faults.evidence import Evidence
from bascule.lab.faults.follow import MoveFollower
from bascule.lab.faults.injection import Injection
from bascule.lab.faults.inside import fetch_json
from bascule.lab.faults.leftovers import Tidiness, limits
from bascule.lab.faults.network_watch import NetworkWatch
from bascule.lab.faults.qemu_watch import QemuWatch, WatchedQemu
from bascule.lab.faults.result import Result
from bascule.lab.faults.settling import settle, waits_for_start
from bascule.lab.faults.verdict import held, judge, may_be_lost
from bascule.lab.faults.watched_qemu import watched_qemu
from bascule.lab.guest_vm import GuestVm
from bascule.lab.laboratory import Lab
from bascule.lab.names import namespace
from bascule.lab.places import CACHE
from bascule.migration.model import Mode

HOSTS = ("h1", "h2")
LINK_BIT_S = 2_500_000_000
DISK_BYTES = 8 << 20
_PROMISE_MS = 500  # a busy machine must not refuse a move
_COMMAND_WITHIN_S = 150.0
_AFTER_COMMAND_S = 20.0
_GUEST_WITHIN_S = 30.0
_BOOT_WITHIN_S = 120.0  # under software emulation, on a busy machine
_PASSES = 2  # of the guest over its memory, before its word on it is taken


class Ground:
    """A lab named `name` for cases; a context manager."""

    def __init__(self, name: str, *, memory_mib: int = 128, dirty_mib: int = 8, rate_mb_s: float = 20) -> None:
        self.guest = GuestVm(memory_mib=memory_mib, dirty_mib=dirty_mib, rate_mb_s=rate_mb_s, sequence=True)
        self.lab = Lab(name)
        self.disk = self.lab.shared_directory / "sequence.raw"
        self._stack = contextlib.ExitStack()
        self._forks_seen = 0
        self.spoilt = False  # by a case with findings: what it left is not fit for another one

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.lab)
            self.guest.build_image()
            self.lab.up(hosts=len(HOSTS), link_bit_s=LINK_BIT_S, agent_settings={"qemu_binary": watched_qemu(CACHE)})
            self.disk.write_bytes(bytes(DISK_BYTES))
            self.lab.give_to_qemu(self.disk)
            folders = {host.name: host.places.run / "vms" for host in self.lab.hosts}
            self.watch = stack.enter_context(QemuWatch(folders))
            self.network = stack.enter_context(NetworkWatch(namespace(self.lab.name, "client")))
            self.guest.start(self.lab, HOSTS[0], f'[[disks]]\npath = "{self.disk}"\nformat = "raw"')
            self.where = HOSTS[0]
            self.boot = self._answer(_BOOT_WITHIN_S)["boot_id"]
            (qemu,) = self.watch.of(self.where)
            self.tidiness = Tidiness(self.lab, self.watch, self.guest.name, self.disk, limits(self.watch, qemu))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    # --- a case ------------------------------------------------------------------------------------------------------

    def run(self, case: Case) -> Result:
        """Try one case, and judge it."""
        seen = self._see(case)
        if not seen.running:
            seen.excuse = may_be_lost(seen) or held(seen)
            seen.held = bool(held(seen))
        if seen.settled and seen.excuse:
            seen.next_move = self._start_again(seen)
        owners = {seen.hosts[side] for side, said in seen.words.items() if said.state != "absent"}
        seen.leftovers = self.tidiness.leftovers({self.where} if seen.held else owners)
        seen.story.append((time.time(), "leftovers were looked for"))
        if seen.settled and seen.running:
            self.where = seen.hosts[seen.running[0]]
            seen.next_move = self._next_move()
        seen.ended_s = time.time()
        found = judge(seen)
        self.spoilt = bool(found)
        return Result(case, seen, tuple(found), self.lab)

    def _see(self, case: Case) -> Evidence:
        source = self.where
        destination = next(host for host in HOSTS if host != source)
        hosts = {Side.SOURCE: source, Side.DESTINATION: destination}
        seen = Evidence(case, hosts, time.time(), self.boot)
        with MoveFollower(self.lab.host(source).socket, self.guest.name) as follower:
            injection = Injection(self.lab, self.watch, follower, hosts)
            injection.begin(case)
            try:
                self._command(case, seen)
                injection.note("the command has ended")
                injection.wait(lambda: "ended" in {phase for _, phase in follower.seen}, _AFTER_COMMAND_S)
                follower.finish()
            finally:
                follower.finish()
                injection.end()
            injection.note("every fault is undone")
            seen.move_id, seen.hits = follower.move_id, tuple(injection.hits)
            seen.story = sorted([*injection.story, *((at, f"phase {phase}") for at, phase in follower.seen)])
        seen.settled, seen.words = settle(self.lab, self.guest.name, hosts, seen.move_id)
        seen.story.append((time.time(), "settled" if seen.settled else "not settled"))
        seen.qemus = self._of_case(seen.began_s)
        seen.running = tuple(seen.side_of(qemu.host) for qemu in seen.qemus if qemu.runs)
        if seen.running:
            with contextlib.suppress(Failed):
                seen.guest = self._healthy()
        seen.story.append((time.time(), "the guest was asked"))
        seen.disk = guest_sequence.inspect(self.disk)
        forks = self.network.forks()
        seen.forks, self._forks_seen = forks[self._forks_seen :], len(forks)
        seen.ended_s = time.time()
        return seen

    def _of_case(self, began_s: float) -> list[WatchedQemu]:
        return [qemu for qemu in self.watch.all() if qemu.dead_s is None or qemu.dead_s > began_s]

    def _command(self, case: Case, seen: Evidence) -> None:
        """Type the move on the source, and wait for what the command says."""
        how = ["--quick"] if case.mode is Mode.QUICK else ["--max-blackout", f"{_PROMISE_MS}ms"]
        command = ["bascule", "migrate", self.guest.name, seen.hosts[Side.DESTINATION], *how]
        child = self.lab.popen(
            seen.hosts[Side.SOURCE],
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            said, _ = child.communicate(timeout=_COMMAND_WITHIN_S)
        except subprocess.TimeoutExpired:
            child.kill()
            said, _ = child.communicate()
            said += b"\n(the command had not ended in time)"
        seen.said = said.decode(errors="replace")
        seen.exit_status = child.returncode if child.returncode >= 0 else None

    # --- afterwards --------------------------------------------------------------------------------------------------

    def _next_move(self) -> str:
        """Move the guest without any fault; say what went wrong."""
        source, destination = self.where, next(host for host in HOSTS if host != self.where)
        wish = {"vm": self.guest.name, "destination": destination, "mode": "live", "max_blackout_ms": _PROMISE_MS}
        try:
            move_id = self.lab.request(source, "POST", "/v1/moves", wish)["id"]
            ended = self._ended(source, move_id)
        except Failed as error:
            return str(error)
        if ended["outcome"] != "completed":
            return f"{ended['outcome']}: {ended['reason']}"
        self.where = destination
        try:
            self._answer()
        except Failed as error:
            return str(error)
        if left := self.tidiness.leftovers({destination}):
            return f"it left behind: {'; '.join(left)}"
        return ""

    def _ended(self, host: str, move_id: str) -> Mapping[str, Any]:
        """Wait for the end of a move that nothing disturbs. Raises `Failed`."""
        give_up_s = time.monotonic() + _COMMAND_WITHIN_S
        while True:
            move: dict[str, Any] = self.lab.request(host, "GET", f"/v1/moves/{move_id}")
            if move["phase"] == "ended" and move["outcome"] is not None:
                return move
            if time.monotonic() > give_up_s:
                raise Failed(f"it is still {move['phase']} after {_COMMAND_WITHIN_S:g} s")
            time.sleep(0.05)

    def _start_again(self, seen: Evidence) -> str:
        """Start a VM whose only copy was killed, where it belongs; then nothing of the move may be open any more."""
        owner = next((side for side, said in seen.words.items() if said.state == "stopped"), None)
        waited = waits_for_start(seen.words)
        if owner is None:
            return "it was lost, and no host says that it could be started there"
        self.where = seen.hosts[owner]
        try:
            self.lab.request(self.where, "POST", f"/v1/vms/{self.guest.name}/start", {})
            self.boot = self._answer(_BOOT_WITHIN_S)["boot_id"]
        except BasculeError as error:
            return f"the VM cannot be started again: {error}"
        if waited:
            seen.settled, later = settle(self.lab, self.guest.name, seen.hosts, seen.move_id)
            # What they said of the VM was said before its start, and is compared with what was seen then.
            seen.started_again = True
            before = seen.words
            seen.words = {
                side: replace(word, state=before[side].state, status=before[side].status)
                for side, word in later.items()
            }
        return ""

    def _answer(self, within_s: float = _GUEST_WITHIN_S) -> Mapping[str, Any]:
        """Wait for the guest's answer to the lab's client. Raises `Failed`."""
        client = namespace(self.lab.name, "client")
        give_up_s = time.monotonic() + within_s
        while True:
            try:
                status: dict[str, Any] = fetch_json(client, self.guest.address, "/status")
            except Failed as error:
                if time.monotonic() > give_up_s:
                    raise Failed(f"the guest does not answer: {error}") from error
                time.sleep(0.1)
            else:
                return status

    def _healthy(self) -> Mapping[str, Any]:
        """As `_answer`, once the guest has looked at all of its memory."""
        first = self._answer()
        give_up_s = time.monotonic() + _GUEST_WITHIN_S
        while (now := self._answer())["passes"] < first["passes"] + _PASSES:
            if time.monotonic() > give_up_s:
                raise Failed("the guest does no work any more")
            time.sleep(0.1)
        return now
