"""Looking at a tap from the network's side: every frame that goes to the guest, with the time at which it came.

A packet socket sees a frame when the bridge hands it to the tap, before it waits there, whoever reads it in the end and
also if nobody does. It takes nothing away: what waits in the tap goes on waiting. The same socket puts frames into the
tap towards the guest. It does not see those itself, nor the pieces into which the kernel cuts a large one for a tap
whose guest's driver has not said yet that it takes such: they are marked.

The kernel delivers a copy of each frame while the watch is on, so it is on only near and during a switchover.
"""

from __future__ import annotations

import ctypes
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import cycle
from typing import NamedTuple

from bascule.errors import Failed
from bascule.network.handover.parcel import Parcel, with_vlan_tag
from bascule.network.tap import VIRTIO_HEADER_BYTES

# linux/if_packet.h
SOL_PACKET = 263
PACKET_STATISTICS = 6
PACKET_AUXDATA = 8
PACKET_VNET_HDR = 15
PACKET_OUTGOING = 4
VLAN_VALID = 0x10
VLAN_TPID_VALID = 0x40
# asm-generic/socket.h
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
SO_ATTACH_FILTER = 26
SO_MARK = 36
# linux/bpf_common.h, linux/filter.h
BPF_LOAD_WORD = 0x20
BPF_JUMP_IF_EQUAL = 0x15
BPF_RETURN = 0x06  # with the number of bytes to be seen
SKF_AD_MARK = 0xFFFFF000 + 20
SKF_AD_QUEUE = 0xFFFFF000 + 24

ETH_P_ALL = 3
ETH_P_8021Q = 0x8100
BUFFER_BYTES = 32 << 20  # a fifth of a second of a full 1 Gbit/s; it costs nothing while it is empty
LARGEST_BYTES = (1 << 17) + VIRTIO_HEADER_BYTES


_AUXDATA = struct.Struct("=IIIHHHH")
_BPF = struct.Struct("=HBBI")
_NOTHING = (_BPF.pack(BPF_RETURN, 0, 0, 0),)
_TIMESPEC = struct.Struct("=qq")
_MARKS = cycle(range(0x0BA50001, 0x0BA5FFFF))  # one for each watch: what others put in has to be seen


class Seen(NamedTuple):
    """A frame that went to the guest, and when, in microseconds of this host's wall clock."""

    at_us: int
    parcel: Parcel


class TapWatch:
    """A packet socket on the tap `name` in the network namespace of the calling thread.

    `queue`: see only what the kernel puts into this one of the tap's queues. `mark`: of what this watch and others put
    in, which they do not see. Raises `Failed` where such a socket is not to be had; nothing is seen before `begin`.
    """

    def __init__(self, name: str, nic: int, queue: int | None = None, *, mark: int | None = None) -> None:
        self.name = name
        self.nic = nic
        self._queue = queue
        self._missed = 0
        self.mark = (
            next(_MARKS) if mark is None else mark
        )  # on what we put in, and on the pieces that the kernel makes of it
        self._buffer = bytearray(LARGEST_BYTES)
        try:
            # Protocol 0: it hears nothing before it is bound to one.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except OSError as error:
            raise Failed(f"cannot watch tap {name}: {error.strerror}", "run the agent as root") from error
        try:
            self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_MARK, self.mark)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            with suppress(OSError):  # then it is as large as an ordinary one
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            self._socket.bind((name, 0))
        except OSError as error:
            self._socket.close()
            raise Failed(f"cannot watch tap {name}: {error.strerror}") from error

    def begin(self) -> None:
        """See every frame from now on. Raises `Failed` when the tap is gone."""
        try:
            program = [_BPF.pack(BPF_LOAD_WORD, 0, 0, SKF_AD_MARK), _BPF.pack(BPF_JUMP_IF_EQUAL, 0, 1, self.mark)]
            program += _NOTHING
            if self._queue is not None:
                program += _BPF.pack(BPF_LOAD_WORD, 0, 0, SKF_AD_QUEUE), _BPF.pack(BPF_JUMP_IF_EQUAL, 1, 0, self._queue)
                program += _NOTHING
            self._show((*program, _BPF.pack(BPF_RETURN, 0, 0, 0xFFFFFFFF)))
            self._socket.bind((self.name, ETH_P_ALL))
        except OSError as error:
            raise Failed(f"cannot watch tap {self.name}: {error.strerror}") from error

    def pause(self) -> None:
        """See nothing until `begin`."""
        self._show(_NOTHING)

    def _show(self, program: Sequence[bytes]) -> None:
        instructions = ctypes.create_string_buffer(b"".join(program))
        attached = struct.pack("@HP", len(program), ctypes.addressof(instructions))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attached)

    def read(self) -> Iterator[Seen]:
        """The frames that came since the last time. It never waits."""
        view = memoryview(self._buffer)
        while True:
            try:
                size, ancillary, _flags, address = self._socket.recvmsg_into([view], 128)
            except BlockingIOError:
                return
            except OSError as error:
                if not self._goes_on_after(error):
                    return
                continue
            if address[2] != PACKET_OUTGOING:  # what the guest itself says
                continue
            parcel = Parcel(self.nic, 0, bytes(view[:VIRTIO_HEADER_BYTES]), bytes(view[VIRTIO_HEADER_BYTES:size]))
            at_us = 0
            for _level, kind, data in ancillary:
                if kind == SO_TIMESTAMPNS:
                    seconds, nanoseconds = _TIMESPEC.unpack(data)
                    at_us = seconds * 1_000_000 + nanoseconds // 1000
                elif kind == PACKET_AUXDATA:
                    status, _length, _captured, _mac, _net, tci, tpid = _AUXDATA.unpack(data)
                    if status & VLAN_VALID:
                        parcel = with_vlan_tag(parcel, tpid if status & VLAN_TPID_VALID else ETH_P_8021Q, tci)
            yield Seen(at_us, parcel)

    def _goes_on_after(self, error: OSError) -> bool:
        """Whether there may be more to read: the frame alone was at fault."""
        if isinstance(error, InterruptedError):
            return True
        if error.args and error.args[0] == 22:  # EINVAL: no virtio header says what this frame is
            self._missed += 1
            return True
        return error.errno in (100, 19) and self._readable()  # the tap went down or away: what came before is there

    def _readable(self) -> bool:
        return bool(select.select([self._socket], [], [], 0)[0])

    def count_missed(self) -> int:
        """How many frames could not be shown, in all: there was no room, or no virtio header says what they are."""
        with suppress(OSError):
            statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)  # reading it sets it to zero
            self._missed += struct.unpack("=II", statistics)[1]
        return self._missed

    def put(self, parcel: Parcel) -> bool:
        """Put a frame in, for the guest. Return whether that was possible; a full tap counts it as dropped."""
        try:
            self._socket.sendto(parcel.header + parcel.frame, (self.name, ETH_P_ALL))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """See no more."""
        self._socket.close()
