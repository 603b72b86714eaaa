"""A VM's two taps on two hosts, with bridges and a switch between them, and a client; the test plays QEMU."""

from __future__ import annotations

import struct
import time
from typing import Any

from bascule.network.announcement import Announcement, announce_now
from bascule.network.frames import mac_bytes
from bascule.network.handover.arriving import ArrivingTap
from bascule.network.handover.leaving import Given, LeavingQueue
from bascule.network.handover.parcel import Parcel
from bascule.network.tap import Tap

GUEST = "52:54:00:aa:00:50"
CLIENT = "52:54:00:aa:00:99"
TUNSETOFFLOAD = 0x400454D0
TUN_F_CSUM, TUN_F_TSO4 = 1, 2

# A virtio header: needs a checksum; TCP over IPv4 in pieces of 1448 bytes.
SEGMENTED = struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16)


def numbered(number: int, to: str = GUEST, length: int = 60) -> bytes:
    head = mac_bytes(to) + mac_bytes(CLIENT) + b"\x88\xb5" + b"N" + struct.pack("!I", number)
    return head.ljust(length, b".")


def numbers(frames: list[bytes]) -> list[int]:
    return [struct.unpack("!I", frame[15:19])[0] for frame in frames if frame[12:15] == b"\x88\xb5N"]


def shows(queue: LeavingQueue, last: Parcel) -> None:
    """The guest's receive queue shows this frame as the one that was filled in last."""
    queue.given = lambda _last: [Given(queue.used() or 0, last)]


def segments(length: int) -> bytes:
    """A TCP frame of IPv4 as large as segmentation offload makes it, its checksum left to the hardware."""
    ip = struct.pack("!BBHHHBBHII", 0x45, 0, length - 14, 1, 0x4000, 64, 6, 0, 0x0A4D0001, 0x0A4D0032)
    tcp = struct.pack("!HHIIBBHHH", 5000, 7, 1, 1, 0x50, 0x10, 1024, 0, 0)
    return (mac_bytes(GUEST) + mac_bytes(CLIENT) + b"\x08\x00" + ip + tcp).ljust(length, b"\xa5")


class Guest:
    """Reads its tap as QEMU does."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.got: list[bytes] = []

    def runs(self) -> list[bytes]:
        self.got += [queued.frame for queued in self.tap.take_queued()]
        return self.got

    def got_numbers(self) -> list[int]:
        self.runs()
        return numbers(self.got)


class Pair:
    """A source, a destination, and a client that counts its frames."""

    def __init__(self, net: Any, *, vhost: bool = False) -> None:
        self.net = net
        self.there, self.here = net.tap(net.a, "bscsrc"), net.tap(net.b, "bscdst")
        self.client = net.capture(net.client, "eth0")
        self.at_source, self.at_destination = net.capture(net.a, "bscsrc"), net.capture(net.b, "bscdst")
        self.leaving = net.a.run(lambda: LeavingQueue(self.there, mac_bytes(GUEST), 0, vhost=vhost))
        self.arriving = net.b.run(ArrivingTap, self.here, 0)
        self.sent = 0
        self.before, self.after = Guest(self.there), Guest(self.here)
        announce_now([(self.there, Announcement(GUEST))])
        net.wait_until(lambda: net.ports_of(net.b, GUEST), "the network to know the guest's place")

    def sends(self, count: int) -> None:
        for _ in range(count):
            self.client.send(numbered(self.sent))
            self.sent += 1

    def sends_to_source(self, count: int) -> None:
        """Send, and wait until all of it has come to the source's tap."""
        self.sends(count)
        self.wait_at(self.at_source)
        self.leaving.look()

    def sends_to_destination(self, count: int) -> None:
        self.sends(count)
        self.wait_at(self.at_destination)
        self.arriving.look()

    def wait_at(self, capture: Any) -> None:
        """Wait for the frame that was sent last. The watch sees what the capture sees."""
        self.net.wait_until(lambda: self.sent - 1 in numbers(capture.read()), f"frame {self.sent - 1}")

    def stops(self) -> None:
        self.leaving.stopped(time.time_ns() // 1000)

    def draws(self, parcels: list[Parcel]) -> None:
        self.arriving.draw(parcels)
        announce_now([(self.here, Announcement(GUEST))])
        self.net.wait_until(lambda: self.net.ports_of(self.net.a, GUEST) == [("up0", False)], "the network to follow")

    def announces(self) -> None:
        """The destination announces, and it has come to the source's bridge."""
        uplink = self.net.capture(self.net.a, "up0")
        announce_now([(self.here, Announcement(GUEST))])
        for frame in Announcement(GUEST).frames():
            uplink.wait_for(frame)

    def close(self) -> None:
        self.leaving.close()
        self.arriving.close()
