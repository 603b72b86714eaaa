"""The hand-over of frames, on the destination: they wait for the VM, and go back if it does not come.

    occupied   before QEMU starts: a decoy is the one frame that it reads before it runs
    drawn      the source has stopped: the source's frames are in the taps, then the announcement draws all others here
    running    from the moment at which QEMU is told to run: what is carried now goes to the end
    ran        QEMU runs it: nothing goes back any more. This host's bridge keeps the VM's MACs at their taps from then
               on, for some seconds (`network.handover.place`)
    returning  the VM does not run here: what came directly is sent to the source, until the taps are gone

It decides nothing, and no command waits for it but for the microseconds of putting frames into a tap. An agent that has
restarted draws without throwing away what waits, and has nothing to send back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict

import structlog

from bascule.agent.host import Host
from bascule.agent.peers import NoAnswerError
from bascule.errors import BasculeError
from bascule.migration.model import Move
from bascule.network.frames import mac_bytes
from bascule.network.handover.arriving import ArrivingTap, Tally
from bascule.network.handover.parcel import Parcel, pack
from bascule.network.handover.place import hold_place, let_place_go, set_places
from bascule.network.tap import Tap

RETURN_S = 0.005
RETURN_AGAIN_S = 0.1
ELSEWHERE_WITHIN_S = 2.5  # else the other host has not announced the VM, or nobody has heard it
QUIET_S = 0.3  # as long no frame has come here: none is under way any more
QUIET_WITHIN_S = 1.5
RETURN_DEADLINE_S = 1.0


def occupy(taps: Sequence[Tap]) -> None:
    """Let QEMU, which is not started yet, find the decoy first in each tap."""
    for number, tap in enumerate(taps):
        with suppress(BasculeError, OSError), closing(ArrivingTap(tap, number)) as arriving:
            arriving.occupy()


class FramesIn:
    """The frames of one VM that arrives.

    `taps`: each with whether the kernel's vhost-net serves it; `places`: the taps' names, each with the MAC behind it;
    `adopted`: an earlier agent started its QEMU.
    """

    def __init__(
        self,
        host: Host,
        move: Move,
        peer: str,
        taps: Sequence[tuple[Tap, bool]],
        places: Sequence[tuple[str, str]] = (),
        *,
        adopted: bool = False,
    ) -> None:
        self._host = host
        self._move = move
        self._peer = peer
        self._adopted = adopted
        self._places = tuple(places)
        self._taps: list[ArrivingTap] = []
        self._drawn = False
        self._ran = False
        self._closed = False
        self._returned = 0
        self._not_put = 0  # or not known whether an earlier agent has put them in
        self._final = Tally()
        self._log = structlog.get_logger().bind(move=move.id, vm=move.vm)
        macs = dict(places)
        with self._beside():
            for number, (tap, vhost) in enumerate(taps):
                mac = mac_bytes(macs[tap.name]) if tap.name in macs else b""
                self._taps.append(ArrivingTap(tap, number, vhost=vhost, mac=mac))

    def draw(self, parcels: Sequence[Parcel] = ()) -> None:
        """The source has stopped: forget the broadcasts that were gathered, and put its frames in.

        Once: where a later batch was faster than the notice, the frames that came with the notice are carried.
        """
        if self._drawn:
            if parcels and not self._closed:
                self.carry(parcels)
            return
        self._drawn = True
        for tap in self._taps:
            ours = [parcel for parcel in parcels if parcel.nic == tap.nic]
            with self._beside(ours):
                tap.draw(ours, keep=self._adopted or tap.running)

    def carry(self, parcels: Sequence[Parcel], *, again: bool = False) -> dict[str, int]:
        """Put frames in that the source sends after; return what became of all so far.

        `again`: some may have come before. An earlier agent of this host may have put them in, so that they are lost.
        """
        if not self._closed:
            self.draw()
            if again and self._adopted:
                self._not_put += len(parcels)
                parcels = ()
            for tap in self._taps:
                ours = [parcel for parcel in parcels if parcel.nic == tap.nic]
                with self._beside(ours):
                    tap.carry(ours)
        return self.tally()

    def run(self) -> None:
        """QEMU is about to be told to run.

        If there was no notice of the stop, the source's agent is dead: what was gathered meanwhile the guest has got.
        """
        if not self._adopted:
            self.draw()
        self._ran = True
        for tap in self._taps:
            with self._beside():
                tap.run()

    def ran(self) -> None:
        """QEMU runs the VM."""
        for tap in self._taps:
            tap.ran()

    @property
    def vm_uuid(self) -> str:
        """Which VM arrives."""
        return self._move.vm_uuid

    def hold_places(self) -> None:
        """The VM runs here: let the bridge keep it at its taps, whatever it hears. It blocks: for a thread."""
        with self._beside():
            set_places(hold_place, self._places)

    def leave_places(self) -> None:
        """Let go of no place: the VM leaves again, and another holds them."""
        self._places = ()

    @property
    def stays(self) -> bool:
        """Whether frames may come late, or a place is held."""
        return self._drawn or self._ran

    def tally(self) -> dict[str, int]:
        """What became of the frames so far."""
        if not self._closed:
            with self._beside():
                self._count()
        return asdict(self._final)

    def _count(self) -> None:
        total = Tally(lost=self._not_put)
        for tap in self._taps:
            total.add(tap.count())
        self._final = total

    async def give_back(self, gone: asyncio.Event) -> None:
        """Send to the source what came here for the VM, until `gone` is set: the taps are not there any more."""
        if not self._drawn or self._adopted:
            return
        unsent: list[Parcel] = []
        while True:
            last = gone.is_set()
            with self._beside():
                for tap in self._taps:
                    unsent += tap.take_back()
            if unsent:
                path = f"/v1/peer/moves/{self._move.id}/frames"
                try:
                    await self._host.peers.hand(self._peer, path, pack(unsent), deadline_s=RETURN_DEADLINE_S)
                    self._returned += len(unsent)
                    unsent = []
                except (BasculeError, NoAnswerError) as error:  # the source tells by their numbers what it has got
                    self._log.warning("frames cannot be sent back", frames=len(unsent), lost=last, error=str(error))
            if last:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(RETURN_AGAIN_S if unsent else RETURN_S):
                    await gone.wait()
        self._log.info("frames sent back", frames=self._returned)

    async def until_quiet(self) -> None:
        """The VM does not run here: wait until its frames come to its other host again, which announces it.

        Without the taps whatever still comes would be lost. The announcement comes here as well: a frame from the VM's
        own address. A bridge that does not learn sends all frames for ever. `moves.CLEAN_WITHIN_S` is longer than this.
        """
        if not self._drawn or self._adopted:
            return
        loop = asyncio.get_running_loop()
        elsewhere_within_s = loop.time() + ELSEWHERE_WITHIN_S
        while not all(tap.is_elsewhere for tap in self._taps) and loop.time() < elsewhere_within_s:  # noqa: ASYNC110  # `give_back` looks as often
            await asyncio.sleep(RETURN_S)
        give_up_s = loop.time() + QUIET_WITHIN_S
        quiet_since_s, came = loop.time(), -1
        while loop.time() < min(quiet_since_s + QUIET_S, give_up_s):
            if (now := sum(tap.came for tap in self._taps)) != came:
                quiet_since_s, came = loop.time(), now
            await asyncio.sleep(RETURN_S)

    def let_places_go(self) -> None:
        """Let the bridge learn where the VM is. It blocks: for a thread."""
        with self._beside():
            set_places(let_place_go, self._places)

    def close(self) -> None:
        """Look no more."""
        if self._closed:
            return
        with suppress(BasculeError, OSError):
            self._count()
        self._closed = True
        for tap in self._taps:
            tap.close()

    @contextmanager
    def _beside(self, parcels: Sequence[Parcel] = ()) -> Iterator[None]:
        """What fails in here fails beside the move: it is told and goes on, and `parcels` count as lost."""
        try:
            yield
        except (BasculeError, OSError, LookupError, ValueError) as error:
            self._not_put += len(parcels)
            self._log.info("hand-over of frames", error=str(error))
