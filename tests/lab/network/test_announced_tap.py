"""A tap says nothing until told; then the network follows."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bascule.errors import Failed
from bascule.network.announcement import Announcement, announce_again, announce_now
from bascule.network.frames import gratuitous_arp, neighbour_advertisement, rarp

pytestmark = pytest.mark.lab

GUEST = "52:54:00:aa:00:50"
CLIENT = "52:54:00:aa:00:99"
TUNSETVNETHDRSZ = 0x400454D8


def unicast(to: str, text: bytes) -> bytes:
    return bytes.fromhex(to.replace(":", "") + CLIENT.replace(":", "")) + b"\x88\xb5" + text.ljust(46, b"\0")


def talkative_tap() -> tuple[int, str]:
    """A tap as anybody would open it, which the host's own IPv6 speaks through: it shows what the test could see."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", b"control0", 0x0002 | 0x1000))
    subprocess.run(["ip", "link", "set", "control0", "master", "br0", "up"], check=True)
    address = subprocess.run(
        ["ip", "-brief", "link", "show", "control0"], check=True, capture_output=True, text=True
    ).stdout.split()[2]
    return device, address


def test_a_tap_is_silent_until_told(net: Any):
    for setting in ("all", "default"):
        net.a.run(Path(f"/proc/sys/net/ipv6/conf/{setting}/forwarding").write_text, "1")
    beyond = net.capture(net.a, "up0")
    tap = net.tap(net.a, "bsctest0")
    on_tap = net.capture(net.a, "bsctest0")
    tap_mac = subprocess.run(
        ["ip", "-n", net.a.name, "-brief", "link", "show", "bsctest0"], check=True, capture_output=True, text=True
    ).stdout.split()[2]
    control, control_mac = net.a.run(talkative_tap)
    try:
        on_control = net.capture(net.a, "control0")

        def control_has_finished_its_speech() -> bool:
            spoken = on_control.from_mac(control_mac)
            link_local = [frame for frame in spoken if frame[22:24] == b"\xfe\x80"]
            return bool(link_local)  # after duplicate address detection: it has an address and uses it

        net.wait_until(control_has_finished_its_speech, "the frames of a tap that is not silenced")
        assert on_tap.from_mac(tap_mac) == []
        assert beyond.from_mac(tap_mac) == []
        assert beyond.from_mac(GUEST) == []
        ours = bytes.fromhex(tap_mac.replace(":", ""))
        waiting = [queued.frame for queued in tap.take_queued()]
        assert [frame for frame in waiting if frame[6:12] == ours] == []
    finally:
        os.close(control)
    announce_now([(tap, Announcement(GUEST))])
    beyond.wait_for(rarp(GUEST))
    assert on_tap.from_mac(GUEST) == [rarp(GUEST)]


@pytest.mark.parametrize("header_bytes", [10, 12])
def test_an_injected_frame_arrives_whole_whatever_the_header(net: Any, header_bytes: int):
    tap = net.tap(net.a, "bsctest0")
    fcntl.ioctl(tap.fileno(), TUNSETVNETHDRSZ, struct.pack("i", header_bytes))
    assert tap.header_bytes() == header_bytes
    at_client = net.capture(net.client, "eth0")
    tap.inject(rarp(GUEST))
    at_client.wait_for(rarp(GUEST))


def test_a_tap_that_is_down_says_so(net: Any):
    tap = net.tap(net.a, "bsctest0")
    net.a.ip("link", "set", "bsctest0", "down")
    with pytest.raises(Failed, match="through tap bsctest0: it is down"):
        tap.inject(rarp(GUEST))


def test_the_network_follows_the_announcement(net: Any):
    there, here = net.tap(net.a, "bscsrc"), net.tap(net.b, "bscdst")
    client = net.capture(net.client, "eth0")
    assert net.ports_of(net.b, GUEST) == []

    # The guest speaks on host A: everybody learns, host B's bridge on its uplink.
    there.inject(gratuitous_arp(GUEST, "10.77.0.50"))
    client.wait_for(gratuitous_arp(GUEST, "10.77.0.50"))
    net.wait_until(lambda: net.ports_of(net.b, GUEST), "host B to learn the MAC")
    assert net.ports_of(net.a, GUEST.upper()) == [("bscsrc", True)]
    assert net.ports_of(net.b, GUEST) == [("up0", False)]
    assert net.ports_of(net.switch, GUEST) == [("p-a", False)]
    client.send(unicast(GUEST, b"before"))
    net.wait_until(lambda: any(b"before" in queued.frame for queued in there.take_queued()), "a frame on the old tap")

    here.take_queued()
    assert announce_now([(here, Announcement(GUEST, ("10.77.0.50", "fd77::50")))]) == 3
    for frame in (rarp(GUEST), gratuitous_arp(GUEST, "10.77.0.50"), neighbour_advertisement(GUEST, "fd77::50")):
        client.wait_for(frame)
    assert net.ports_of(net.b, GUEST) == [("bscdst", True)]
    assert net.ports_of(net.switch, GUEST) == [("p-b", False)]
    net.wait_until(lambda: net.ports_of(net.a, GUEST) == [("up0", False)], "host A to learn that the guest has gone")
    there.take_queued()
    client.send(unicast(GUEST, b"after"))
    arrived: list[bytes] = []

    def on_the_new_tap() -> bool:
        arrived.extend(queued.frame for queued in here.take_queued())
        return any(b"after" in frame for frame in arrived)

    net.wait_until(on_the_new_tap, "a frame on the new tap")
    assert not any(b"after" in queued.frame for queued in there.take_queued())


def test_a_switch_that_missed_the_first_announcement_learns_from_the_next(net: Any):
    tap = net.tap(net.b, "bscdst")
    net.switch.ip("link", "set", "p-b", "down")
    announce_now([(tap, Announcement(GUEST))])
    net.switch.ip("link", "set", "p-b", "up")
    net.wait_until(lambda: net.ports_forward(net.switch), "the switch's port")
    assert net.ports_of(net.switch, GUEST) == []

    asyncio.run(announce_again(lambda: announce_now([(tap, Announcement(GUEST))]), after_ms=(0, 10)))
    net.wait_until(lambda: net.ports_of(net.switch, GUEST) == [("p-b", False)], "the switch to learn")


def test_tcpdump_understands_the_frames(net: Any, tmp_path: Path):
    tap = net.tap(net.a, "bsctest0")
    client = net.capture(net.client, "eth0")
    announcement = Announcement(GUEST, ("10.77.0.50", "fd77::50"))
    announce_now([(tap, announcement)])
    for frame in announcement.frames():
        client.wait_for(frame)
    pcap = tmp_path / "announcement.pcap"
    records = b"".join(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in client.from_mac(GUEST))
    pcap.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + records)
    text = subprocess.run(
        ["tcpdump", "-nn", "-vv", "-e", "-r", pcap], check=True, capture_output=True, text=True
    ).stdout  # fmt: skip
    assert f"who-is {GUEST} tell {GUEST}" in text
    assert "who-has 10.77.0.50 tell 10.77.0.50" in text
    assert "[icmp6 sum ok] ICMP6, neighbor advertisement" in text
    assert "tgt is fd77::50, Flags [override]" in text
    assert f"destination link-address option (2), length 8 (1): {GUEST}" in text
