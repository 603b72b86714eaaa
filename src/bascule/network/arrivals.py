"""Seeing where frames for a VM arrive: at its tap, and at the host's own ports to the network.

A frame that comes in by a port to the network and leaves by the VM's tap shows that the network knows the VM's place.
One that is only seen at the tap comes from this host itself, from another VM of it, or was carried over from the VM's
last host, and shows nothing. The kernel stamps each frame with the wall clock, so that nobody needs to hurry.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from bascule.network.frames import mac_bytes
from bascule.network.probe.packet_filter import Field, attach

MOST_AT_ONCE = 64
MOST_SENDERS = 64
_ETH_P_ALL = 3
_READ_BYTES = 16
_BUFFER_BYTES = 256 * 1024
_OUTGOING = 4  # linux/if_packet.h: PACKET_OUTGOING
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_PACKET_IGNORE_OUTGOING = 23
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the control message has the same number
_TIMESPEC = struct.Struct("@ll")
_STATISTICS = struct.Struct("=II")


@dataclass(slots=True)
class Sighted:
    """When frames of each sender were seen, in ns of the wall clock: first on the wire, first and last at the tap."""

    on_wire: dict[bytes, int] = field(default_factory=dict)
    at_tap: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def came_in(self, sender: bytes, at_ns: int) -> None:
        """A frame came in by a port to the network. Of too many senders, later ones are passed over."""
        if sender in self.on_wire or len(self.on_wire) < MOST_SENDERS:
            self.on_wire[sender] = min(self.on_wire.get(sender, at_ns), at_ns)

    def left(self, sender: bytes, at_ns: int) -> None:
        """A frame left by the tap, for the VM."""
        if sender in self.at_tap or len(self.at_tap) < MOST_SENDERS:
            first_ns, last_ns = self.at_tap.get(sender, (at_ns, at_ns))
            self.at_tap[sender] = (min(first_ns, at_ns), max(last_ns, at_ns))

    @property
    def arrived_ns(self) -> int | None:
        """When the first frame that came from the network was at the tap.

        What was carried over from the VM's last host may bear the same sender, but was at the tap before.
        """
        arrived = []
        for sender in self.at_tap.keys() & self.on_wire.keys():
            (first_ns, last_ns), came_in_ns = self.at_tap[sender], self.on_wire[sender]
            arrived += [at_ns for at_ns in (first_ns, last_ns) if at_ns >= came_in_ns][:1]
        return min(arrived, default=None)


class Arrivals:
    """Watches one NIC of a VM, in the network namespace of the thread that opens it."""

    def __init__(self, mac: str, tap: str, wires: Sequence[str], *, since_ns: int) -> None:
        """`wires` are the bridge's ports to the network. Frames before `since_ns` are passed over.

        Raises OSError without root, or without the tap. A port that is not there is passed over.
        """
        self.seen = Sighted()
        self._since_ns = since_ns
        self._tap = _open(tap, mac, stamped=True)
        self._wires: list[socket.socket] = []
        for wire in wires:
            with suppress(OSError):
                self._wires.append(_open(wire, mac, stamped=True))

    def look(self) -> int | None:
        """Read what has come, at most so much; return when the first frame from the network was at the tap, in ns."""
        for wire in self._wires:
            self._read(wire, at_tap=False)
        self._read(self._tap, at_tap=True)
        return self.seen.arrived_ns

    def _read(self, sock: socket.socket, *, at_tap: bool) -> None:
        """A frame for the VM leaves by its tap, and comes in by a wire; the other way it was sent by somebody here."""
        with suppress(OSError):  # nothing there, or the device is gone
            for _ in range(MOST_AT_ONCE):
                frame, ancillary, _, address = sock.recvmsg(_READ_BYTES, socket.CMSG_SPACE(_TIMESPEC.size))
                at_ns = _stamp_ns(ancillary)
                if at_ns >= self._since_ns and (address[2] == _OUTGOING) == at_tap:
                    note = self.seen.left if at_tap else self.seen.came_in
                    note(frame[6:12], at_ns)

    def sockets(self) -> list[socket.socket]:
        """What is to be closed in the end, each in some ms."""
        return [self._tap, *self._wires]


class WireCount:
    """Counts frames for MACs that come in by some ports, in the kernel: nobody is woken, nothing is read."""

    def __init__(self, watched: Sequence[tuple[str, str]]) -> None:
        """`watched` are (MAC, port). Raises OSError without root. A port that is not there is passed over."""
        self._sockets: list[socket.socket] = []
        for mac, port in watched:
            try:
                sock = _open(port, mac, stamped=False)
                self._sockets.append(sock)
                sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            except PermissionError:
                self.close()
                raise
            except OSError:
                continue

    def take(self) -> int:
        """How many have come since the last call, or since the beginning."""
        total = 0
        for each in self._sockets:
            # Those that found no room, which are most, are counted in the first figure too.
            packets, _ = _STATISTICS.unpack(each.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size))
            total += packets
        return total

    def close(self) -> None:
        """Count no more. It blocks for some ms."""
        for each in self._sockets:
            each.close()


def frames_to(mac: str) -> list[Field]:
    """The filter for frames to a MAC."""
    hardware = mac_bytes(mac)
    return [(0, 4, int.from_bytes(hardware[:4])), (4, 2, int.from_bytes(hardware[4:]))]


def _open(device: str, mac: str, *, stamped: bool) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES if stamped else 1)  # 1: the least there is
        if stamped:
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        attach(sock, frames_to(mac))
        sock.bind((device, _ETH_P_ALL))
    except OSError:
        sock.close()
        raise
    return sock


def _stamp_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(data) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(data[: _TIMESPEC.size])
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return 0
