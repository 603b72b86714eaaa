"""The first frame that a VM sends after it was let run: when the kernel took it from the VM's tap.

The kernel stamps frames by the host's wall clock, the clock of QEMU's own events, so that the time from RESUME to the
first frame is read from one clock, and nobody has to be quick in looking. It begins to stamp some moment after the
first socket of the host has asked, so a watch is opened well before the run. Announcements are not counted: the host
makes them in the guest's name, through the same tap.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Sequence

ETH_P_ALL = 0x0003
SOL_PACKET = 263  # linux/socket.h
PACKET_IGNORE_OUTGOING = 23  # linux/if_packet.h; what goes to the guest
SO_TIMESTAMPNS = 35  # asm-generic/socket.h, and the type of the ancillary data
KEPT_S = 5.0  # how long after RESUME one is waited for, and can be asked for
_HEAD_BYTES = 80
_RARP, _ARP, _IPV6 = 0x8035, 0x0806, 0x86DD
_NEIGHBOUR_ADVERTISEMENT = 136


class FirstFrameWatch:
    """Opened before the VM comes, on its taps; `run` says when it was let run. It closes itself some seconds later."""

    def __init__(self, taps: Sequence[str]) -> None:
        """Raises OSError when a tap is not there, or this process may not listen to it."""
        self._loop = asyncio.get_running_loop()
        self._seen = asyncio.Event()
        self._from_us = 0
        self.at_us: int | None = None
        self._sockets: list[socket.socket] = []
        try:
            for tap in taps:
                self._sockets.append(_listen(tap))
        except BaseException:
            self._close_all()
            raise

    def run(self, resumed_us: int, on_end: Callable[[], object] = lambda: None) -> None:
        """The VM was let run at this moment of the wall clock, in us: earlier frames were not the guest's.

        `on_end` is called when nobody needs to ask any more.
        """
        if self._from_us:  # it was stopped and let run again meanwhile
            return
        self._from_us = resumed_us
        for each in self._sockets:
            self._loop.add_reader(each.fileno(), self._read, each)

        def end() -> None:
            self.close()
            on_end()

        self._loop.call_later(KEPT_S, end)

    async def first_us(self, patience_s: float) -> int | None:
        """Wait for the first frame and return the wall clock's reading, in us; None if none came in time."""
        try:
            async with asyncio.timeout(patience_s):
                await self._seen.wait()
        except TimeoutError:
            return None
        return self.at_us

    def close(self) -> None:
        """Listen no more. May be called twice."""
        self._seen.set()
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            self._loop.remove_reader(each.fileno())
        if sockets:  # the kernel waits for all processors before it lets a packet socket go
            self._loop.run_in_executor(None, _close, sockets)

    def _close_all(self) -> None:
        _close(self._sockets)

    def _read(self, listener: socket.socket) -> None:
        while True:
            try:
                head, ancillary, _, _ = listener.recvmsg(_HEAD_BYTES, 64)
            except OSError:  # nothing more, or the tap is down
                return
            at_us = _stamp_us(ancillary)
            if at_us is not None and at_us >= self._from_us and not is_announcement(head):
                self.at_us = at_us
                self.close()
                return


def is_announcement(frame: bytes) -> bool:
    """Whether a frame only tells where its sender is: RARP, gratuitous ARP, unsolicited neighbour advertisement."""
    (kind,) = struct.unpack_from("!H", frame, 12) if len(frame) >= 14 else (0,)
    if kind == _ARP and len(frame) >= 42:
        return frame[28:32] == frame[38:42]  # sender's and target's protocol address
    if kind == _IPV6 and len(frame) >= 59:
        is_advertisement = frame[20] == 58 and frame[54] == _NEIGHBOUR_ADVERTISEMENT
        return is_advertisement and not frame[58] & 0x40  # the flag of a solicited one
    return bool(kind == _RARP)


def _listen(tap: str) -> socket.socket:
    listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        listener.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        listener.bind((tap, ETH_P_ALL))
    except BaseException:
        listener.close()
        raise
    return listener


def _close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _stamp_us(ancillary: Sequence[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(data) >= 16:
            seconds, nanoseconds = struct.unpack_from("qq", data)
            return int(seconds * 1_000_000 + nanoseconds // 1000)
    return None
