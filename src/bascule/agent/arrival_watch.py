"""After a move, on the destination: does the network bring the VM's frames to this host? Announce until it does.

It begins when the VM runs, and is beside everything: the move is decided and over, and nothing waits for this.

1. The VM is announced at once and four times more within 550 ms, for switches that were busy; at 50 ms the guest is
   asked to announce itself too, which it does for every address and VLAN that it has, where its driver can.
2. Where nothing has arrived after 2 ms, its last neighbours are asked who has their address, in the guest's name: the
   answer goes to the guest alone, which takes it as any answer. A network that is silent otherwise shows its way so.
3. A frame that came in by a port to the network and left by the VM's tap is the proof (`bascule.network.arrivals`).
   Its time, stamped by the kernel, less QEMU's RESUME, both from this host's wall clock, is `verified_ms`.
4. Without proof the announcements and questions go on, ever more slowly, up to 8 s, and 10 s after the run it is said
   what was seen instead. That is no failure: nobody may have anything to say to the VM.

Crash points: none. It keeps nothing, and an agent that restarts does not go on with it. When the VM stops, moves on or
ends, `RunningVm.silence` cancels it, so that it never calls the network back from the VM's next place.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from bascule.agent.vm_network import NicNetwork, VmNetwork
from bascule.errors import BasculeError
from bascule.network.arrivals import Arrivals
from bascule.network.ear import close_in_thread
from bascule.qemu.machine import QemuMachine

USUAL_MS = (0, 50, 150, 300, 550)
UNTIL_SEEN_MS = (1000, 2000, 4000, 8000)
GUEST_ANNOUNCES_AT_MS = 50
ASK_AT_MS = 2
GIVE_UP_MS = 10_000
MOST_ANNOUNCED_FOR_SOURCE = 4
_GUEST_ANNOUNCES = {"initial": 50, "max": 550, "rounds": 1, "step": 100}
_QMP_DEADLINE_S = 1.0


@dataclass(slots=True)
class NicFinding:
    """What was seen of one NIC; `arrivals` while it is watched. `asked`: how many neighbours were."""

    nic: NicNetwork
    arrivals: Arrivals | None = None
    verified_ms: float | None = None
    asked: int = 0
    trouble: str = ""

    def why_not(self) -> str:
        """Why nothing was seen, in words; empty if something was."""
        if self.verified_ms is not None:
            return ""
        if self.trouble:
            return self.trouble
        if self.nic.wires is None:
            return f"the ports of bridge {self.nic.bridge} could not be read"
        if not self.nic.wires:
            return f"bridge {self.nic.bridge} has no port to a network"
        seen = self.arrivals.seen if self.arrivals is not None else None
        if seen is not None and seen.on_wire:
            return f"frames for it reach this host, but bridge {self.nic.bridge} does not bring them to its tap"
        if seen is not None and seen.at_tap:
            return "only machines on this host have sent it anything"
        if self.asked:
            return (
                f"nobody sent it anything, and none of {self.asked} neighbours that it was seen speaking with answered"
            )
        return "nobody sent it anything, and no neighbour is known that could be asked"


@dataclass(slots=True)
class ArrivalWatch:
    """Watches one VM after one move to here. `resumed_us` is QEMU's RESUME on the wall clock."""

    move_id: str
    network: VmNetwork
    machine: QemuMachine
    resumed_us: int
    guest_can_announce: bool = True
    give_up_ms: float = GIVE_UP_MS
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    _findings: list[NicFinding] = field(default_factory=list)
    _state: str = "watching"
    _announced_for_source: int = 0
    _left: bool = False

    async def run(self) -> None:
        """Watch and announce to the end. Never raises but when cancelled."""
        began_s = time.monotonic()
        opened: list[NicFinding] = []
        try:
            self._findings = opened = [NicFinding(nic) for nic in self.network.nics]
            await self._go_on(began_s)
        except Exception:  # beside the move: a fault of ours is logged, and nothing more
            structlog.get_logger().exception("arrival of frames cannot be watched", move=self.move_id)
        finally:
            if self._state == "watching":
                self._settle("not seen", "it has stopped or moved on before anything was seen")
            for finding in opened:
                if finding.arrivals is not None:
                    close_in_thread(asyncio.get_running_loop(), finding.arrivals.sockets())

    async def _go_on(self, began_s: float) -> None:
        announce_ms = [*USUAL_MS[1:], *UNTIL_SEEN_MS]  # the first is announced below
        ask_ms = [ASK_AT_MS, *announce_ms]
        guest_announces_ms = [GUEST_ANNOUNCES_AT_MS, *UNTIL_SEEN_MS] if self.guest_can_announce else []
        self._announce()  # it does not wait for the rest
        await self._open()
        while True:
            now_ms = (time.monotonic() - began_s) * 1000
            self._look()
            if self._state == "watching" and all(each.verified_ms is not None for each in self._findings):
                self._settle("seen")
            if self._state == "seen":
                announce_ms = [at_ms for at_ms in announce_ms if at_ms <= USUAL_MS[-1]]
                guest_announces_ms = [at_ms for at_ms in guest_announces_ms if at_ms <= USUAL_MS[-1]]
                if not announce_ms:
                    return
            if _due(announce_ms, now_ms):
                self._announce()
            if _due(ask_ms, now_ms) and self._state == "watching":
                self._ask()
            if _due(guest_announces_ms, now_ms):
                await self._have_guest_announce()
            if self._state == "watching" and now_ms >= self.give_up_ms:  # last, so that whoever was to be asked was
                self._settle("not seen")
                return
            await asyncio.sleep(self._pause_s(now_ms, announce_ms))

    def _pause_s(self, now_ms: float, announce_ms: list[int]) -> float:
        """How long until the next look: the frames are stamped, so it is only about not leaving others waiting."""
        if self._state == "seen":
            return max(0.0, (announce_ms[0] - now_ms) / 1000) if announce_ms else 0.0
        return 0.001 if now_ms < 20 else 0.01 if now_ms < 500 else 0.05

    # --- what is done ------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        await self.network.find_wires()  # which was done before, as a rule: it takes a while
        for finding in self._findings:
            nic = finding.nic
            try:
                finding.arrivals = Arrivals(nic.mac, nic.tap.name, nic.wires or (), since_ns=self.resumed_us * 1000)
            except OSError as error:
                finding.trouble = f"this host cannot watch tap {nic.tap.name}: {error.strerror}"

    def _look(self) -> None:
        for finding in self._findings:
            if finding.verified_ms is None and finding.arrivals is not None:
                arrived_ns = finding.arrivals.look()
                if arrived_ns is not None:
                    finding.verified_ms = max(0.0, arrived_ns / 1e6 - self.resumed_us / 1e3)

    def _announce(self) -> None:
        with suppress(BasculeError):  # the tap may be gone by then, with its VM
            self.network.announce()

    def _ask(self) -> None:
        for finding in self._findings:
            if finding.verified_ms is not None:
                continue
            questions = finding.nic.questions()
            finding.asked = max(finding.asked, len(questions))
            with suppress(BasculeError):
                for question in questions:
                    finding.nic.inject(question)

    async def _have_guest_announce(self) -> None:
        with suppress(BasculeError):  # it is one announcement among others
            await self.machine.execute("announce-self", _GUEST_ANNOUNCES, deadline_s=_QMP_DEADLINE_S)

    def leave(self) -> None:
        """The VM stands still and may run elsewhere from now on, perhaps where it came from: announce no more."""
        self._left = True

    def announce_again(self) -> None:
        """The source still gets frames for the VM: announce once more, but not for ever.

        Where the VM is moving back, the source gets them rightly, and asks all the same.
        """
        if not self._left and self._announced_for_source < MOST_ANNOUNCED_FOR_SOURCE:
            self._announced_for_source += 1
            self._announce()

    # --- what is said ------------------------------------------------------------------------------------------------

    def _settle(self, state: str, why: str = "") -> None:
        self._state = state
        for finding in self._findings:
            finding.trouble = finding.trouble or why
        self.settled.set()

    def finding(self) -> dict[str, Any]:
        """What is known now, for the report."""
        verified = [each.verified_ms for each in self._findings]
        known = [ms for ms in verified if ms is not None]
        whole = bool(known) and len(known) == len(verified)
        nics = [
            {
                "mac": each.nic.mac,
                "addresses": len(each.nic.known()),
                "verified_ms": None if each.verified_ms is None else round(each.verified_ms, 3),
                "why": "" if self._state == "watching" else each.why_not(),
            }
            for each in self._findings
        ]
        return {
            "state": self._state,
            "verified_ms": round(max(known), 3) if whole else None,
            "why": next((str(nic["why"]) for nic in nics if nic["why"]), ""),
            "announcements": self.network.announcements,
            "announced_frames": self.network.announced_frames,
            "nics": nics,
        }


def _due(times_ms: list[int], now_ms: float) -> bool:
    """Whether the next of these times has come; it is taken off, and with it those that were missed."""
    was_due = False
    while times_ms and times_ms[0] <= now_ms:
        times_ms.pop(0)
        was_due = True
    return was_due
