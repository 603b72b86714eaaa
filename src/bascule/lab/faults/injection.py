"""Doing the faults of a case to a lab, each by a thread of its own that waits for its phase, and undoing them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bascule.errors import BasculeError
from bascule.lab.faults.case import RECOVERY, Case, Fault, Kind, Side, Target
from bascule.lab.faults.follow import MoveFollower
from bascule.lab.faults.qemu_watch import QemuWatch, WatchedQemu
from bascule.lab.faults.urgency import urgent
from bascule.lab.laboratory import Lab
from bascule.lab.links import Cut
from bascule.lab.processes import Process
from bascule.lab.unix_http import NoAnswerError, request

_PHASE_WITHIN_S = 90.0
_SPIN_S = 0.002
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Hit:
    """A fault that was done: in which phase the source said to be, and to what. Times in s since the epoch."""

    fault: Fault
    at_s: float
    phase: str
    what: str
    killed: tuple[WatchedQemu, ...] = ()


@dataclass(slots=True)
class Injection:
    """The faults of one case, under way."""

    lab: Lab
    watch: QemuWatch
    follower: MoveFollower
    hosts: dict[Side, str]
    hits: list[Hit] = field(default_factory=list)
    story: list[tuple[float, str]] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _recovering: threading.Event = field(default_factory=threading.Event)
    _starting: dict[str, threading.Lock] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    def begin(self, case: Case) -> None:
        """Wait for the phases of all faults from now on."""
        self._starting = {host: threading.Lock() for host in self.hosts.values()}
        for fault in case.faults:
            thread = threading.Thread(target=self._do, args=(fault,), name=str(fault))
            self._threads.append(thread)
            thread.start()

    def wait(self, ended: Callable[[], bool], at_most_s: float) -> None:
        """Wait until all faults are done and undone, and the move has ended as well; but not for ever."""
        give_up_s = time.monotonic() + at_most_s
        while not ended() and time.monotonic() < give_up_s:
            time.sleep(_LOOK_S)
        waiting = [thread for thread in self._threads if thread.is_alive()]
        if not ended() and waiting:  # a fault may hold it up: it is undone some time
            for thread in waiting:
                thread.join(max(0.0, give_up_s - time.monotonic()))

    def end(self) -> None:
        """Wait until all faults are done and undone; whatever they left undone is undone now."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        for host in self.hosts.values():
            self.lab.heal_link(host)
            for pid in pids_in(self.lab, host):
                _send(pid, signal.SIGCONT)
            self._supervise(host)

    def note(self, text: str) -> None:
        """Put a line into the case's story."""
        self.story.append((time.time(), text))

    def _do(self, fault: Fault) -> None:
        host = self.hosts[fault.side]
        with urgent():
            hit = self._meet(fault, host)
        if hit is None:
            return
        self.hits.append(hit)
        self.note(f"{fault}: {hit.what} in phase {hit.phase}")
        if not fault.is_final:
            time.sleep(fault.lasts_ms / 1000)
            self._undo(fault, host, hit)

    def _meet(self, fault: Fault, host: str) -> Hit | None:
        """Wait for the moment of a fault, and do it."""
        if not self._wait(fault):
            self.note(f"not done, its phase was never reached: {fault}")
            return None
        _sleep_ms(fault.offset_ms)
        try:
            hit = self._inject(fault, host, self.follower.phase)
        except (BasculeError, OSError) as error:
            self.note(f"could not be done: {fault}: {error}")
            return None
        if hit is None:
            self.note(f"nothing to hit: {fault}")
        return hit

    def _wait(self, fault: Fault) -> bool:
        if fault.phase != RECOVERY:
            return self.follower.wait(fault.phase, _PHASE_WITHIN_S)
        while not self._recovering.wait(0.05):
            if self._over.is_set() or self.follower.over:
                return False
        return True

    # --- doing -------------------------------------------------------------------------------------------------------

    def _inject(self, fault: Fault, host: str, phase: str) -> Hit | None:
        match fault.kind:
            case Kind.CANCEL:
                return self._cancel(fault, host, phase)
            case Kind.CUT | Kind.BLACK_HOLE:
                self.lab.cut_link(host, Cut.CARRIER if fault.kind is Kind.CUT else Cut.BLACK_HOLE)
                return Hit(fault, time.time(), phase, f"the link of {host}")
            case Kind.KILL:
                return self._signal(fault, host, phase, signal.SIGKILL)
            case Kind.FREEZE:
                return self._signal(fault, host, phase, signal.SIGSTOP)

    def _cancel(self, fault: Fault, host: str, phase: str) -> Hit | None:
        if self.follower.move_id is None:
            return None
        socket = self.lab.host(host).socket
        try:
            _, answer = request(socket, "POST", f"/v1/moves/{self.follower.move_id}/cancel", {}, timeout_s=5)
        except NoAnswerError as silence:
            answer = f"no answer: {silence}"
        return Hit(fault, time.time(), phase, f"answered {answer}")

    def _signal(self, fault: Fault, host: str, phase: str, number: signal.Signals) -> Hit | None:
        """Send one signal to all that the fault means, in the same instant as near as can be."""
        qemus = self.watch.of(host) if fault.target is not Target.AGENT else []
        agent = self.lab.agent(host) if fault.target is not Target.QEMU else None
        pids = [qemu.pid for qemu in qemus if qemu.process.is_alive()]
        if agent is not None and agent.is_alive():
            pids.append(agent.pid)
        at_s = time.time()
        hit = [pid for pid in pids if _send(pid, number)]
        if fault.target is Target.HOST:
            hit += [pid for pid in pids_in(self.lab, host) if pid not in pids and _send(pid, number)]
            if number is signal.SIGKILL:
                self.lab.cut_link(host, Cut.CARRIER)
        if not hit:
            return None
        killed = tuple(qemu for qemu in qemus if qemu.pid in hit) if number is signal.SIGKILL else ()
        return Hit(fault, at_s, phase, f"{fault.target} of {host}, processes {hit}", killed)

    # --- undoing -----------------------------------------------------------------------------------------------------

    def _undo(self, fault: Fault, host: str, hit: Hit) -> None:
        match fault.kind:
            case Kind.CUT | Kind.BLACK_HOLE:
                self.lab.heal_link(host)
            case Kind.FREEZE:
                for pid in pids_in(self.lab, host):
                    _send(pid, signal.SIGCONT)
            case Kind.KILL if fault.target is not Target.QEMU:
                if fault.target is Target.HOST:
                    self.lab.heal_link(host)
                self._supervise(host)
            case _:
                return
        self.note(f"undone: {hit.fault.kind} of {hit.what}")

    def _supervise(self, host: str) -> None:
        """Start the agent of a host if it is dead, as its supervisor does, until one stays long enough to answer."""
        with self._starting[host]:
            while not self.lab.agent(host).is_alive():
                self._recovering.set()
                with contextlib.suppress(BasculeError):  # killed again, or frozen for long
                    self.lab.start_agent(host)
                    self.note(f"the agent of {host} was started again")


def _sleep_ms(wait_ms: float) -> None:
    """Sleep to the fraction of a millisecond."""
    until = time.monotonic() + wait_ms / 1000
    if (rest := until - time.monotonic() - _SPIN_S) > 0:
        time.sleep(rest)
    while time.monotonic() < until:
        pass


def _send(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def pids_in(lab: Lab, host: str) -> list[int]:
    """Return all live processes in a host's namespace."""
    inode = Path(f"/run/netns/{lab.host(host).namespace}").stat().st_ino
    return [int(entry.name) for entry in _processes() if _is_in(entry, inode)]


def _processes() -> Iterator[Path]:
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _is_in(entry: Path, inode: int) -> bool:
    try:
        return (entry / "ns/net").stat().st_ino == inode and Process.of(int(entry.name)) is not None
    except OSError:
        return False
