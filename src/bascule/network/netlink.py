"""Talking to the kernel about links, through pyroute2."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute  # type: ignore[import-untyped]  # it ships no type information
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]  # as above

__all__ = ["IPRoute", "NetlinkError", "netlink_batch"]


@contextmanager
def netlink_batch() -> Iterator[IPRoute]:
    """One netlink socket for one batch of operations, in the network namespace of the calling thread.

    It is short-lived because every request on a long-lived one leaks. It blocks (about 1 ms, or as long as the
    kernel holds its link lock), and pyroute2 runs an event loop of its own inside: call it in a thread
    (`asyncio.to_thread`), never from a coroutine.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("netlink blocks and brings its own event loop: call this in a thread")
    with IPRoute() as netlink:
        yield netlink
