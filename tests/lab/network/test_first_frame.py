"""The first frame of a VM that was let run: of its own, after the run, by the kernel's stamp."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from bascule.network.first_frame import FirstFrameWatch
from bascule.network.frames import rarp

pytestmark = pytest.mark.lab

GUEST = "52:54:00:aa:00:50"
CLIENT = "52:54:00:aa:00:99"


def frame(to: str, of: str, text: bytes) -> bytes:
    return bytes.fromhex(to.replace(":", "") + of.replace(":", "")) + b"\x88\xb5" + text.ljust(46, b"\0")


def wall_us() -> int:
    return time.time_ns() // 1000


def watched(net: Any, name: str = "bsctest0") -> tuple[Any, FirstFrameWatch]:
    """A tap with a watch on it. The watch's sockets belong to the namespace of the thread that opens them."""
    tap = net.tap(net.a, name)
    loop = asyncio.get_running_loop()

    def opened() -> FirstFrameWatch:
        asyncio._set_running_loop(loop)
        try:
            return FirstFrameWatch([name])
        finally:
            asyncio._set_running_loop(None)

    return tap, net.a.run(opened)


async def test_it_is_the_guests_first_frame_after_the_run_and_no_announcement_or_frame_for_it(net: Any) -> None:
    tap, watch = watched(net)
    tap.inject(frame(CLIENT, GUEST, b"before the run"))
    net.capture(net.client, "eth0").send(frame("ff:ff:ff:ff:ff:ff", CLIENT, b"for the guest"))
    resumed_us = wall_us()
    watch.run(resumed_us)
    tap.inject(rarp(GUEST))
    earliest_us = wall_us()
    tap.inject(frame(CLIENT, GUEST, b"the first"))
    latest_us = wall_us()
    tap.inject(frame(CLIENT, GUEST, b"the second"))
    first_us = await watch.first_us(20)
    assert first_us is not None
    assert resumed_us <= earliest_us - 1 <= first_us <= latest_us + 1


async def test_a_frame_that_came_before_anybody_looked_has_its_own_time(net: Any) -> None:
    tap, watch = watched(net)
    resumed_us = wall_us()
    tap.inject(frame(CLIENT, GUEST, b"at once"))
    latest_us = wall_us()
    await asyncio.sleep(0.02)  # the agent was busy
    watch.run(resumed_us)
    first_us = await watch.first_us(20)
    assert first_us is not None
    assert resumed_us - 1 <= first_us <= latest_us + 1


async def test_a_silent_vm_has_none_and_nothing_is_left_open(net: Any) -> None:
    _, watch = watched(net)
    watch.run(wall_us())
    assert await watch.first_us(0.05) is None
    watch.close()
    watch.close()
    assert watch._sockets == []


async def test_a_tap_that_is_not_there_is_an_error_with_nothing_left_open() -> None:
    with pytest.raises(OSError, match="No such device"):
        FirstFrameWatch(["bscnone0"])
