"""A VM's network as its agent knows it: its taps, the addresses that its frames name there, and announcing them.

While the VM runs its frames are listened to (`bascule.network.ear`), so that whoever takes it over can announce all its
addresses from the first moment: `to_json` goes to the destination with the preparation of a move, and again if they
change before the VM stops, and `take` puts it into use there. Nothing of this may fail a move: what cannot be learned
is not announced.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog

from bascule.network.address_book import AddressBook, Known, read_known
from bascule.network.announcement import Announcement, announce_now
from bascule.network.bridge import wire_ports
from bascule.network.claims import Claim
from bascule.network.ear import Ear
from bascule.network.frames import arp_request, neighbour_solicitation, tagged
from bascule.network.tap import Tap
from bascule.vm.definition import Nic

MOST_REMEMBERED = 128
MOST_QUESTIONS = 4


class NicNetwork:
    """One NIC: its tap, its bridge, and its guest's addresses."""

    def __init__(self, tap: Tap, nic: Nic) -> None:
        self.tap = tap
        self.mac = nic.mac
        self.bridge = nic.bridge
        self.book = AddressBook()
        self.wires: tuple[str, ...] | None = None  # its bridge's ports to the network, once they were looked for
        self._ear: Ear | None = None
        self._said: dict[bytes, None] = {}  # by us in the guest's name: it would teach us what we knew already

    def listen(self) -> None:
        """Learn from now on. It takes microseconds; without the right to, or without the tap, nothing is learned."""
        if self._ear is not None or self.tap.closed:
            return
        try:
            self._ear = Ear(self.tap.name, self.mac, self._hear)
        except OSError as error:
            why = error.strerror or str(error)
            structlog.get_logger().warning("addresses of the VM cannot be learned", tap=self.tap.name, why=why)

    def _hear(self, claim: Claim, frame: bytes) -> None:
        if frame not in self._said:
            self.book.note(claim, time.monotonic())

    def known(self) -> tuple[Known, ...]:
        """The guest's addresses, the one named last first."""
        return self.book.known(time.monotonic())

    def announcement(self) -> Announcement:
        """What is to be announced now."""
        known = self.known()
        plain = tuple(str(each.address) for each in known if not each.vlans)
        return Announcement(self.mac, plain, tuple((each.vlans, str(each.address)) for each in known if each.vlans))

    def questions(self) -> list[bytes]:
        """What the guest could ask those whom it spoke with last, so that they answer it: a few frames at most."""
        asked = [
            tagged(_question(self.mac, each.address, neighbour), each.vlans)
            for each in self.known()
            for neighbour in each.neighbours[:2]
            if neighbour.version == each.address.version
        ]
        return asked[:MOST_QUESTIONS]

    def inject(self, frame: bytes) -> None:
        """Send a frame as if the guest had. Raises Failed when the tap takes none."""
        untagged_by_kernel = frame[:12] + frame[16:] if frame[12:14] in (b"\x81\x00", b"\x88\xa8") else frame
        self._said.pop(untagged_by_kernel, None)
        self._said[untagged_by_kernel] = None
        if len(self._said) > MOST_REMEMBERED:
            del self._said[next(iter(self._said))]
        self.tap.inject(frame)

    def close(self) -> None:
        """Learn no more."""
        if self._ear is not None:
            self._ear.close()
            self._ear = None


class VmNetwork:
    """All NICs of a VM whose taps are known. Counts what was announced since the VM stood still."""

    def __init__(self, taps: Iterable[Tap], nics: Iterable[Nic]) -> None:
        self.nics = [NicNetwork(tap, nic) for tap, nic in zip(taps, nics, strict=False)]
        self.announcements = 0
        self.announced_frames = 0

    def listen(self) -> None:
        """Learn the guest's addresses from now on."""
        for nic in self.nics:
            nic.listen()

    async def find_wires(self) -> None:
        """Look for the bridges' ports to the network, where that was not done. What cannot be found stays unknown."""
        for nic in self.nics:
            try:
                nic.wires = nic.wires if nic.wires is not None else await asyncio.to_thread(wire_ports, nic.bridge)
            except Exception as error:  # whatever the kernel says to it: this is beside the move
                structlog.get_logger().warning("ports of a bridge not found", bridge=nic.bridge, why=str(error))

    def announce(self) -> None:
        """Announce all NICs, once. It takes microseconds. Raises Failed for those that could not be."""
        nics = [(nic, nic.announcement()) for nic in self.nics if not nic.tap.closed]
        if nics:
            self.announced_frames += announce_now(nics)
            self.announcements += 1

    def forget_counts(self) -> None:
        """Count the announcements of a move from here on."""
        self.announcements = self.announced_frames = 0

    def to_json(self) -> list[dict[str, Any]]:
        """What was learned, for the host that takes the VM over."""
        return [{"mac": nic.mac, "known": [each.to_dict() for each in nic.known()]} for nic in self.nics]

    def take(self, rows: object) -> None:
        """Take over what the VM's last host has learned; what makes no sense is passed over."""
        given = {str(row.get("mac")): row for row in _mappings(rows)}
        for nic in self.nics:
            if nic.mac in given:
                nic.book.take(read_known(given[nic.mac].get("known")), time.monotonic())

    def close(self) -> None:
        """Learn no more."""
        for nic in self.nics:
            nic.close()


def _mappings(rows: object) -> Sequence[Mapping[str, Any]]:
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _question(mac: str, sender: Any, wanted: Any) -> bytes:
    ask = arp_request if sender.version == 4 else neighbour_solicitation
    return ask(mac, sender, wanted)
