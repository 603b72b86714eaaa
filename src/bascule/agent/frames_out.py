"""The hand-over of frames, on the source: what comes to the VM's taps here and will not reach it here is carried to it.

    prepared   the frames that come are counted, to size the destination's queues
    watching   from the copy's start, so that the counts are known when the stop comes
    paused     too many frames to look at for long: until the stop is near
    stopped    at STOP: which frames the guest has got is reckoned; the first others travel with the notice of the stop
    carrying   whatever comes to the taps is sent after, until they are gone or the VM stays
    staying    the VM runs on here: nothing is carried any more; a frame that QEMU has lost of each queue is put in
               again, then what came to the destination meanwhile

From the copy's start until some seconds after the stop this host's bridge keeps the VM's MACs at their taps
(`network.handover.place`).

It is beside the move: it decides nothing, no command waits for it for longer than `FINISH_S`, its failures are counted
and told in the report, and after a restart of this agent it is not taken up again.

Crash points. This agent dies: frames that were not carried yet are lost, as without a hand-over. The destination's
agent dies or hangs: the sending fails or waits, frames are kept up to a bound. Both agents live and the network
between them does not: the same. The VM stays: nothing was taken from its taps here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import groupby
from typing import Any

import structlog

from bascule.agent.frames_sender import AGAIN_S, FrameSender
from bascule.agent.host import Host
from bascule.agent.machines import RunningVm
from bascule.errors import BasculeError, Failed
from bascule.migration.model import Move
from bascule.network.frames import mac_bytes
from bascule.network.handover.leaving import Given, LeavingQueue, leaving_queues
from bascule.network.handover.parcel import Parcel, identity
from bascule.network.handover.place import HELD_S, hold_place, let_place_go, set_places
from bascule.network.tap import DEFAULT_QUEUE_FRAMES, LONGEST_QUEUE_FRAMES, VIRTIO_HEADER_BYTES
from bascule.qemu.receive_ring import HEADER_BYTES, ReceiveRing
from bascule.qemu.rx_filter import rx_filters

LOOK_S = 0.01
WARM_UP_S = 0.25  # a guest that has just arrived is slow at first
TOO_MANY_PER_S = 30_000  # watching so many takes a tenth of a processor
CARRY_S = 0.001
CARRY_SLOWLY_S = 0.01
SETTLE_S = 0.003  # a frame that comes is given to a guest that runs in much less
SETTLE_TRIES = 60
SOON_S = 0.05  # as long frames come late by milliseconds, because the network has just learned
SEND_DEADLINE_S = 2.0
FINISH_S = 2.0


def _given(ring: ReceiveRing, nic: int, last: int) -> list[Given]:
    return [
        Given(used, Parcel(nic, 0, filled[:VIRTIO_HEADER_BYTES], filled[HEADER_BYTES:]))
        for used, filled in ring.given(last)
    ]


def too_many(came: int, passed_s: float) -> bool:
    """Whether `came` frames in `passed_s` seconds are too many to watch for long: a look that is late finds more."""
    return came > TOO_MANY_PER_S * max(passed_s, LOOK_S)


class FramesOut:
    """The frames of one VM that leaves."""

    def __init__(self, host: Host, vm: RunningVm, move: Move, peer: str) -> None:
        self._host = host
        self._vm = vm
        self._move = move
        self._peer = peer
        self._queues: list[LeavingQueue] = []
        self._rings: list[ReceiveRing] = []
        self._watching = asyncio.Event()
        self._near = False
        self._prepared_s = 0.0
        self._reads: list[int] = []
        self._paused = False
        self._looked_s = 0.0
        self._stopped = asyncio.Event()
        self._told = asyncio.Event()
        self._sender = FrameSender(self._hand)
        self._staying = False
        self._runs_here = asyncio.Event()
        self._settled = asyncio.Event()
        self._back: list[Parcel] = []  # what is to be put in once it is
        self._finishing = False
        self._left = 0  # that there was no time to send
        self._why: set[str] = set()
        self._came_back: set[tuple[int, int]] = set()  # NIC, number there
        self._put_back = 0
        self._not_put_back = 0
        self._log = structlog.get_logger().bind(move=move.id, vm=move.vm)

    @property
    def vm_uuid(self) -> str:
        """Which VM leaves."""
        return self._move.vm_uuid

    # --- before the stop ---------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Get ready to watch the VM's taps."""
        self._prepared_s = asyncio.get_running_loop().time()
        nics = self._vm.definition.nics
        with self._beside("the taps cannot be watched"):
            served = self._vm.served_by_vhost()
            for number, (tap, nic, vhost) in enumerate(zip(self._vm.taps, nics, served, strict=False)):
                if not tap.closed:
                    self._queues += leaving_queues(tap, mac_bytes(nic.mac), number, vhost=vhost)
            self._reads = [queue.reads() for queue in self._queues]

    def queue_frames(self) -> int:
        """How many frames a tap of the destination should hold: twice what comes, at the rate seen, while it waits."""
        passed_s = asyncio.get_running_loop().time() - self._prepared_s
        busiest = 0
        with self._beside("the frames cannot be counted"):
            busiest = max(
                (queue.reads() - before for queue, before in zip(self._queues, self._reads, strict=True)), default=0
            )
        waiting_s = self._move.goals.max_blackout_ms / 1000 + WARM_UP_S
        wanted = 2 * busiest / max(passed_s, 0.01) * waiting_s
        return max(DEFAULT_QUEUE_FRAMES, min(int(wanted), LONGEST_QUEUE_FRAMES))

    def tells_numbers(self) -> None:
        """The destination tells frames by their numbers, so that what it does not answer can be sent again."""
        self._sender.tells_numbers = True

    def watch(self) -> None:
        """The copy begins: watch from now on."""
        with self._beside("the taps cannot be watched"):
            self._begin()

    def near(self) -> None:
        """The switchover may come soon: watch, however many frames there are."""
        self._near = True
        if self._paused and not self._stopped.is_set():
            self._paused = False
            with self._beside("the taps cannot be watched"):
                self._begin()

    def _begin(self) -> None:
        self._looked_s = asyncio.get_running_loop().time()
        for queue in self._queues:
            queue.begin()
        self._watching.set()

    async def work(self) -> None:
        """Do all that takes time, until cancelled."""
        try:
            await self._watching.wait()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hold_places(), name=f"places of {self._move.id}")
                tasks.create_task(self._find_rings(), name=f"receive queues of {self._move.id}")
                tasks.create_task(self._look_and_carry(), name=f"carrying of {self._move.id}")
                tasks.create_task(self._settle(), name=f"settling of {self._move.id}")
        except Exception:  # beside the move: a fault of ours is logged, and nothing more
            self._log.exception("frames cannot be handed over")
            self._why.add("the hand-over broke off, see the log")

    async def _hold_places(self) -> None:
        """Until some seconds after the stop, or cancelled. If the VM has left, its places went with its taps."""
        self._host.moves.frames.places_taken(self)
        in_thread = asyncio.get_running_loop().run_in_executor
        holding = in_thread(None, set_places, hold_place, self._vm.places())
        try:
            with self._beside(""):
                await asyncio.shield(holding)
            await self._stopped.wait()
            await asyncio.sleep(HELD_S)
        finally:
            await asyncio.wait([holding])
            with self._beside(""):
                await in_thread(None, set_places, let_place_go, self._vm.places())

    async def _look_and_carry(self) -> None:
        while not self._stopped.is_set():
            if not self._paused:
                self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._stopped.wait()
        await self._carry()

    def _look(self) -> None:
        with self._beside("the frames cannot be counted"):
            came = sum(queue.look() for queue in self._queues)
            before_s, self._looked_s = self._looked_s, asyncio.get_running_loop().time()
            if too_many(came, self._looked_s - before_s) and not self._near and not self._stopped.is_set():
                self._paused = True
                for queue in self._queues:
                    queue.pause()

    async def _find_rings(self) -> None:
        for queue in self._queues:
            if (ring := await ReceiveRing.find(self._vm.machine, queue.watch.nic, queue.queue)) is not None:
                queue.used, queue.free = ring.used, ring.free
                queue.given = partial(_given, ring, queue.watch.nic)
                self._rings.append(ring)
        await self._learn_filters()

    # --- the switchover ----------------------------------------------------------------------------------------------

    def stopped(self, at_us: int) -> None:
        """No vCPU runs any more, since `at_us` on this host's wall clock. It takes microseconds."""
        self.near()
        for queue in self._queues:
            with self._beside("the frames cannot be counted"):
                queue.stopped(at_us)
        self._stopped.set()

    def runs_again(self, at_us: int) -> None:
        """The vCPUs run again here since `at_us`, by QEMU's RESUME: it lets them run by itself if a copy fails."""
        for queue in self._queues:
            queue.runs_again(at_us)

    def first_batch(self) -> bytes:
        """What goes with the notice of the stop. Nothing where the stop was missed: the guest may have got all."""
        if not self._stopped.is_set():
            return b""
        self._take()
        return self._sender.first_batch()

    def told(self) -> None:
        """The destination has had the notice, or it cannot be had: go on carrying."""
        self._told.set()

    def _take(self) -> None:
        if self._finishing:
            return
        for queue in self._queues:
            with self._beside("the frames cannot be read"):
                if self._sender.has_room:
                    self._sender.add(queue.take())

    def _rest(self) -> list[Parcel]:
        rest: list[Parcel] = []
        for queue in self._queues:
            with self._beside("the frames cannot be read"):
                rest += queue.take()
        return rest

    async def _carry(self) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await self._told.wait()
        for queue in self._queues:
            self._log.info("frames reckoned", nic=queue.watch.nic, **queue.reckoned())
        while not self._staying:
            self._take()
            for queue in self._queues:
                with self._beside(""):
                    queue.look_again()
            if await self._sender.send():
                await asyncio.sleep(CARRY_S if loop.time() - began_s < SOON_S else CARRY_SLOWLY_S)
            else:
                await asyncio.sleep(AGAIN_S)

    async def _hand(self, batch: bytes, again: bool, last: bool) -> Mapping[str, int]:
        path = f"/v1/peer/moves/{self._move.id}/frames?again={again:d}&last={last:d}"
        answer = await self._host.peers.hand(self._peer, path, batch, deadline_s=SEND_DEADLINE_S)
        try:
            return {key: int(value) for key, value in answer["frames"].items()}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise Failed(f"{self._move.destination} gave an answer that makes no sense: {answer}") from error

    async def finish(self) -> None:
        """The taps are gone here: send the rest, and learn what became of all."""
        if not self._stopped.is_set() or self._staying:
            return
        self._finishing = True
        if not await self._sender.finish(FINISH_S, self._rest):
            self._left = len(self._rest())
            self._why.add(f"{self._move.destination} did not say within {FINISH_S:g} s that it has the last of them")

    def count(self) -> None:
        """While the taps are still there, count what QEMU swallowed."""
        with self._beside(""):
            for queue in self._queues:
                queue.count_swallowed()

    # --- the VM stays ------------------------------------------------------------------------------------------------

    def stay(self) -> None:
        """The VM stays: its frames are where they were, but for those that QEMU has taken and thrown away."""
        self._staying = True
        self._told.set()  # a copy that was cancelled at its stop gave no notice

    def run_on(self) -> None:
        """It runs here: what it lacks can be seen."""
        self.stay()
        self._runs_here.set()

    async def _settle(self) -> None:
        """If the VM stays, put in what is missing, as soon as it can be told, and then what has come back."""
        try:
            await self._runs_here.wait()
            cards = self._cards() if self._stopped.is_set() else []
            if cards:
                await self._learn_filters()
            for left in reversed(range(SETTLE_TRIES)):
                cards = [queues for queues in cards if not self._put_missing(queues, last_look=not left)]
                if not cards:
                    break
                await asyncio.sleep(SETTLE_S)
        finally:
            self._settled.set()
            back, self._back = self._back, []
            self._put_in(back)

    async def _learn_filters(self) -> None:
        """Learn which frames the guest's cards turn away."""
        filters = await rx_filters(self._vm.machine)
        for queue in self._queues:
            if queue.watch.nic in filters:
                queue.passes = filters[queue.watch.nic].passes

    async def settle(self) -> None:
        """If the VM stood still and stays, wait until it has its frames, as far as can be told."""
        if self.stays and self._queues:
            with suppress(TimeoutError):
                async with asyncio.timeout(FINISH_S):
                    await self._settled.wait()

    def _put_missing(self, queues: Sequence[LeavingQueue], *, last_look: bool) -> bool:
        """Whether that is done with, for a card. What is put in may come into any of its queues, so all tell first."""
        with self._beside("what QEMU dropped cannot be put in"):
            told = [(queue, queue.missing(last_look=last_look)) for queue in queues]
            if any(missing is None for _, missing in told):
                return False
            for queue, missing in told:
                queue.found_back = sum(queue.watch.put(parcel) for parcel in missing or ())
                self._not_put_back += len(missing or ()) - queue.found_back
                nic = queue.watch.nic
                self._log.info("frames left out", nic=nic, found=queue.found_back, untold=queue.untold)
        return True

    def _cards(self) -> list[list[LeavingQueue]]:
        """The queues of each."""
        return [list(queues) for _, queues in groupby(self._queues, key=lambda queue: queue.watch.nic)]

    @property
    def stays(self) -> bool:
        """Whether the VM stood still and runs on here: frames for it may come back."""
        return self._staying and self._stopped.is_set()

    def put_back(self, parcels: list[Parcel]) -> dict[str, int]:
        """Give the guest here what came to the destination for it, at once or soon."""
        if self._settled.is_set():
            self._put_in(parcels)
        else:
            self._back += parcels
        return {"carried": self._put_back + len(self._back)}

    def _put_in(self, parcels: list[Parcel]) -> None:
        with self._beside("what came back cannot be put in"):
            for queues in self._cards():
                here = Counter(identity(parcel) for queue in queues for parcel in queue.came_here())
                for parcel in parcels:
                    place = (parcel.nic, parcel.number)
                    if parcel.nic != queues[0].watch.nic or place in self._came_back:  # or it is sent again
                        continue
                    self._came_back.add(place)
                    if here[identity(parcel)] > 0:  # it was flooded to both hosts
                        here[identity(parcel)] -= 1
                    elif queues[0].watch.put(parcel):
                        self._put_back += 1
                    else:
                        self._not_put_back += 1

    # --- the end -----------------------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any] | None:
        """What became of the frames; None for a VM that did not stop, or has no NIC."""
        if not self._stopped.is_set() or not self._queues:
            return None
        there = self._sender.there
        lost_there = there.get("lost", 0)
        not_carried = sum(queue.not_carried() for queue in self._queues)
        lost, why = self._not_put_back, sorted(self._why)
        if self._staying:
            untold = {queue.untold for queue in self._queues if queue.untold}
            if not self._settled.is_set():
                untold.add("there was no time")
            what = "whether QEMU has dropped a frame while it stopped could not be told"
            why += [f"{what}: {reason}" for reason in sorted(untold)]
        if self._not_put_back:
            why.append(f"{self._not_put_back} could not be put back")
        if not self._staying:
            lost = self._sender.waiting + self._sender.refused + self._left + lost_there + not_carried
            why += sorted(self._sender.why) if lost else []
            if not_carried:
                why.append(f"{not_carried} were too many at once, or of a kind that cannot be carried")
            if lost_there:
                why.append(f"{lost_there} found the tap on {self._move.destination} full, or its agent had restarted")
        if not self._staying and any(queue.is_unsure for queue in self._queues):
            why.append("of a NIC with several queues it is not known what the guest had got: what waited may be lost")
        overflowed = sum(queue.overflowed for queue in self._queues)
        if self._staying:
            overflowed += sum(queue.overflowed_and_carried for queue in self._queues)
        if overflowed:
            lost += overflowed
            why.append(f"{overflowed} found the tap on {self._move.source} full, as QEMU did not read it in time")
        return {
            "carried": self._put_back if self._staying else self._sender.sent - there.get("seen_here", 0),
            "waited": there.get("waited", 0),
            "found_back": sum(queue.found_back for queue in self._queues),
            "late": there.get("late", 0),
            "lost": lost,
            "why": "; ".join(why),
        }

    def close(self) -> None:
        """Watch no more."""
        for queue in self._queues:
            queue.close()
            queue.used = queue.free = lambda: None
            queue.given = lambda _last: []
        for ring in self._rings:
            ring.close()
        self._rings.clear()

    @contextmanager
    def _beside(self, what: str) -> Iterator[None]:
        """What fails in here fails beside the move: it is told and goes on."""
        try:
            yield
        except (BasculeError, OSError, LookupError, ValueError) as error:
            self._log.info("hand-over of frames", what=what, error=str(error))
            if what:
                self._why.add(f"{what}: {error}")
