"""How many frames a tap has given to whoever reads it, asked without a thread and within microseconds.

The kernel counts a frame as sent by a tap (`tx_packets`) when a program has read it, and as dropped when the tap was
full. A raw netlink question on a socket that is already open takes some 10 us, so that it can be asked in the agent's
event loop at the moment of a VM's STOP; /sys would need the right mount, and pyroute2 a thread.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from bascule.errors import Failed

# linux/rtnetlink.h, linux/if_link.h
RTM_GETSTATS = 94
IFLA_STATS_LINK_64 = 1
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
# The kernel answers within microseconds, unless somebody else configures its network for long just then. The agent
# waits for that with everything that it does.
ANSWER_WITHIN_S = 0.25
_HEADER = struct.Struct("=IHHII")
_IF_STATS = struct.Struct("=BxxxII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK_64 = struct.Struct("=8Q")  # rx_packets tx_packets rx_bytes tx_bytes rx_errors tx_errors rx_dropped tx_dropped


class Counts(NamedTuple):
    """`read`: frames that were taken out of the tap towards the guest; `dropped`: frames that found it full."""

    read: int
    dropped: int


class TapCounters:
    """The counters of one interface of the calling thread's network namespace. Raises `Failed` if it is not there."""

    def __init__(self, name: str) -> None:
        self._name = name
        try:
            index = socket.if_nametoindex(name)
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        except OSError as error:
            raise Failed(f"cannot count the frames of {name}: {error.strerror}") from error
        self._socket.settimeout(ANSWER_WITHIN_S)
        self._asked = 0
        self._question = _IF_STATS.pack(0, index, 1 << (IFLA_STATS_LINK_64 - 1))

    def read(self) -> Counts:
        """The counters now. Raises `Failed` when the interface has gone, or the kernel does not answer in time."""
        self._asked += 1
        length = _HEADER.size + len(self._question)
        try:
            self._socket.send(_HEADER.pack(length, RTM_GETSTATS, NLM_F_REQUEST, self._asked, 0) + self._question)
            while True:
                answer = self._socket.recv(4096)
                _length, kind, _flags, number, _port = _HEADER.unpack_from(answer)
                if number == self._asked:  # else it is a late answer to an earlier question
                    break
        except OSError as error:
            raise Failed(f"cannot count the frames of {self._name}: {error.strerror or error}") from error
        if kind == NLMSG_ERROR:
            raise Failed(f"cannot count the frames of {self._name}: it is gone")
        values = _LINK_64.unpack_from(answer, _HEADER.size + _IF_STATS.size + _ATTRIBUTE.size)
        return Counts(read=values[1], dropped=values[7])

    def close(self) -> None:
        """Ask no more."""
        self._socket.close()
