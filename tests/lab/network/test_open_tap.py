"""Opening taps: joined, quiet, gone with their last descriptor, and clear about what is missing."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bascule.errors import Refused
from bascule.network.bridge import read_bridge
from bascule.network.tap import TUNGETVNETHDRSZ, Tap, open_taps

pytestmark = pytest.mark.lab

GUEST = "52:54:00:aa:00:50"
CLIENT = "52:54:00:aa:00:99"
TUNSETVNETHDRSZ = 0x400454D8  # linux/if_tun.h


def unicast(to: str, text: bytes) -> bytes:
    return bytes.fromhex(to.replace(":", "") + CLIENT.replace(":", "")) + b"\x88\xb5" + text.ljust(46, b"\0")


def test_an_open_tap_is_up_in_its_bridge_and_vanishes_with_its_descriptor(net: Any):
    tap = net.tap(net.a, "bsctest0")
    assert "bsctest0" in net.a.run(read_bridge, "br0").ports
    assert tap.header_bytes() == 10
    flags = Path(f"/proc/self/fdinfo/{tap.fileno()}").read_text()
    assert "iff:\tbsctest0" in flags
    copy = os.dup(tap.fileno())
    tap.close()
    assert tap.closed
    assert "bsctest0" in net.a.links(), "another descriptor, as QEMU's, keeps it alive"
    os.close(copy)
    net.wait_until(lambda: "bsctest0" not in net.a.links(), "the tap's end")


def test_the_bridge_keeps_its_mac_and_its_mtu(net: Any):
    net.a.ip("link", "set", "up0", "mtu", "9000", "address", "fc:ff:ff:ff:ff:fe")  # higher than most, so that most win
    before = net.a.run(read_bridge, "br0")
    assert before.mtu_bytes == 9000
    net.tap(net.a, "bsctest0")
    after = net.a.run(read_bridge, "br0")
    assert (after.mac, after.mtu_bytes) == (before.mac, 9000)
    assert set(after.ports) == {"up0", "bsctest0"}


def test_frames_wait_in_the_tap_up_to_its_queue(net: Any):
    tap = net.a.run(Tap.open, "bsctest0", "br0", queue_frames=20)
    net.taps.append(tap)
    uplink = net.capture(net.client, "eth0")
    for number in range(50):
        uplink.send(unicast("ff:ff:ff:ff:ff:ff", b"%d" % number))
    last = unicast("ff:ff:ff:ff:ff:ff", b"49")
    arrived = net.capture(net.a, "br0")
    sentinel = unicast("ff:ff:ff:ff:ff:ff", b"sentinel")
    uplink.send(sentinel)
    arrived.wait_for(sentinel)
    waiting = [queued.frame for queued in tap.take_queued()]
    ours = [frame for frame in waiting if frame[12:14] == b"\x88\xb5"]
    assert 0 < len(ours) <= 20
    assert ours == [unicast("ff:ff:ff:ff:ff:ff", b"%d" % number) for number in range(len(ours))]
    assert last not in ours
    others = [queued.frame for queued in tap.take_queued()]  # the kernel's own may come at any time
    assert not [frame for frame in others if frame[12:14] == b"\x88\xb5"]


class Negotiating(Tap):
    """A tap whose header changes its length before it is read for the `before`th time, as QEMU does it."""

    def __init__(self, tap: Tap, lengths: tuple[int, int], before: int) -> None:
        device = tap._queues[0]
        super().__init__(tap.name, [device])
        reads_left = before

        def set_header_bytes(length: int) -> None:
            fcntl.ioctl(device.fileno(), TUNSETVNETHDRSZ, struct.pack("i", length))

        def readinto(view: memoryview) -> int | None:
            nonlocal reads_left
            if reads_left == 0:
                set_header_bytes(lengths[1])
            reads_left -= 1
            return device.readinto(view)

        set_header_bytes(lengths[0])
        self._queues: Any = (SimpleNamespace(readinto=readinto, fileno=device.fileno),)

    def header_bytes(self) -> int:
        (length,) = struct.unpack("i", fcntl.ioctl(self.fileno(), TUNGETVNETHDRSZ, bytes(4)))
        return length


@pytest.mark.parametrize("lengths", [(10, 12), (12, 10), (12, 20), (10, 20)])
def test_frames_are_whole_though_the_header_changes_while_they_are_taken(quiet_net: Any, lengths: tuple[int, int]):
    """QEMU sets the length when it loads the state of a guest whose driver has negotiated, at any moment."""
    net = quiet_net
    tap = net.tap(net.a, "bsctest0")
    client = net.capture(net.client, "eth0")
    for before in range(7):
        frames = [unicast("ff:ff:ff:ff:ff:ff", b"%d" % number) for number in range(5)]
        arrived = net.capture(net.a, "br0")
        for frame in frames:
            client.send(frame)
        arrived.wait_for(frames[-1])
        assert [queued.frame for queued in Negotiating(tap, lengths, before).take_queued()] == frames


def test_a_missing_bridge_is_refused(net: Any):
    with pytest.raises(Refused, match="no bridge br7"):
        net.a.run(Tap.open, "bsctest0", "br7")
    with pytest.raises(Refused, match="up0 is no bridge but a veth device"):
        net.a.run(Tap.open, "bsctest0", "up0")
    assert "bsctest0" not in net.a.links()


def test_a_taken_name_is_refused_and_its_holder_named(net: Any):
    net.tap(net.a, "bsctest0")
    with pytest.raises(Refused, match=rf"in use by process {os.getpid()} \(") as refusal:
        net.a.run(Tap.open, "bsctest0", "br0")
    assert "run here already" in refusal.value.remedy
    with pytest.raises(Refused, match="of that name exists\n"):
        net.a.run(Tap.open, "up0", "br0")


def test_a_persistent_tap_of_that_name_is_not_joined(net: Any):
    net.a.ip("tuntap", "add", "bsctest0", "mode", "tap")
    with pytest.raises(Refused, match="exists") as refusal:
        net.a.run(Tap.open, "bsctest0", "br0")
    assert "ip link delete bsctest0" in refusal.value.remedy


OPEN_TAP = """
import sys
from bascule.errors import Refused
from bascule.network.tap import Tap
try:
    tap = Tap.open("bsctest0", "br0")
except Refused as error:
    print("refused:", error, flush=True)
else:
    print("open", flush=True)
    sys.stdin.read()
"""


def in_namespace(host: Any, *words: str) -> list[str]:
    return ["ip", "netns", "exec", host.name, *words]


def test_without_the_right_it_says_so(net: Any):
    result = subprocess.run(
        in_namespace(net.a, "setpriv", "--bounding-set=-net_admin", sys.executable, "-c", OPEN_TAP),
        check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "not permitted" in result.stdout
    assert "CAP_NET_ADMIN" in result.stdout


def test_without_the_device_it_says_so(net: Any):
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    result = subprocess.run(
        in_namespace(net.a, "unshare", "--mount", "sh", "-c", hide, "sh", sys.executable, "-c", OPEN_TAP),
        check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "no /dev/net/tun" in result.stdout
    assert "modprobe tun" in result.stdout


def test_a_killed_agent_leaves_no_tap(net: Any):
    with subprocess.Popen(
        in_namespace(net.a, sys.executable, "-c", OPEN_TAP),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as agent:  # fmt: skip
        assert agent.stdout is not None
        assert agent.stdout.readline() == "open\n"
        assert "bsctest0" in net.a.links()
        agent.kill()
        assert agent.wait() == -signal.SIGKILL
    net.wait_until(lambda: "bsctest0" not in net.a.links(), "the tap's end")


def test_taps_are_opened_all_or_none(net: Any):
    async def both() -> list[str]:
        taps = await open_taps([("bsctest0", "br0", 1), ("bsctest1", "br0", 1)])
        names = [tap.name for tap in taps]
        for tap in taps:
            tap.close()
        return names

    assert net.a.run(asyncio.run, both()) == ["bsctest0", "bsctest1"]

    async def second_is_wrong() -> None:
        await open_taps([("bsctest0", "br0", 1), ("bsctest1", "br7", 1)])

    with pytest.raises(Refused, match="br7"):
        net.a.run(asyncio.run, second_is_wrong())
    net.wait_until(lambda: not {"bsctest0", "bsctest1"} & net.a.links(), "the taps' end")


def test_cancelled_opening_leaves_none(net: Any):
    async def cancelled() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await open_taps([("bsctest0", "br0", 1), ("bsctest1", "br0", 1)])

    net.a.run(asyncio.run, cancelled())
    net.wait_until(lambda: not {"bsctest0", "bsctest1"} & net.a.links(), "the taps' end")


def test_opening_and_closing_leaks_no_descriptor(net: Any):
    def cycle() -> int:
        with Tap.open("bsctest0", "br0"):
            pass
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    first = net.a.run(cycle)
    assert [net.a.run(cycle) for _ in range(10)] == [first] * 10
