"""The TCP connection that a VM's state goes through: opened by the agent, and passed to the QEMU that sends.

QEMU could open it itself. But then the kernel queues as much of the stream as its limits allow, 4 MB on Linux by
default, and all of it is still to be sent and loaded when the VM has been stopped: it is blackout. What waits unsent is
therefore bounded here. That costs no bandwidth, since what is under way and not acknowledged yet is not bounded. And
the last, short segment of the stream is not held back for an acknowledgement (Nagle's algorithm).
"""

from __future__ import annotations

import asyncio
import os
import socket

from bascule.errors import Failed

UNSENT_BYTES = 256 * 1024  # 2 ms of a gigabit; at 25 Gbit/s still time enough for QEMU to be woken
CONNECT_DEADLINE_S = 5.0


async def open_stream(uri: str, *, deadline_s: float = CONNECT_DEADLINE_S) -> socket.socket:
    """Connect to the QEMU that waits at `uri` ("tcp:10.0.0.2:49152"). The caller closes the socket.

    Raises `Failed` if that is not possible.
    """
    host, _, port = uri.removeprefix("tcp:").rpartition(":")
    attempt = f"cannot connect to the destination's QEMU at {host}:{port}"
    if not uri.startswith("tcp:") or not host or not port.isdecimal():
        raise ValueError(f"{uri!r} is no TCP address of a QEMU")
    try:
        async with asyncio.timeout(deadline_s):
            return await _connect(host.strip("[]"), int(port))
    except TimeoutError:
        raise Failed(
            f"{attempt}: no answer within {deadline_s:g} s", "look at the firewall between the two hosts"
        ) from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)  # asyncio has its own words beside the number
        raise Failed(f"{attempt}: {why}", "look at the firewall between the two hosts") from error


async def _connect(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    family, kind, protocol, _, address = found[0]
    stream = socket.socket(family, kind, protocol)
    try:
        stream.setblocking(False)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        await loop.sock_connect(stream, address)
        stream.setblocking(True)  # QEMU sends from a thread of its own, and the duplicates share this flag
    except BaseException:
        stream.close()
        raise
    return stream
