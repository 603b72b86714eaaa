from __future__ import annotations

import asyncio

import pytest

from bascule.errors import Failed
from bascule.network.announcement import REPETITIONS_MS, Announcement, announce_again, announce_now
from bascule.network.frames import gratuitous_arp, neighbour_advertisement, rarp, tagged

MAC = "52:54:00:12:34:56"
OTHER_MAC = "52:54:00:12:34:57"


class Collector:
    """Takes frames as a tap does, and says when."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.times_s: list[float] = []

    def inject(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.times_s.append(asyncio.get_running_loop().time())


class Broken:
    def inject(self, frame: bytes) -> None:
        raise Failed(f"cannot send a frame of {len(frame)} bytes through tap bscx: it is down")


def test_a_nic_without_known_addresses_is_announced_by_rarp_alone():
    assert Announcement(MAC).frames() == (rarp(MAC),)


def test_each_known_address_gets_a_frame_of_its_family():
    assert Announcement(MAC, ("10.77.0.50", "fd00::50")).frames() == (
        rarp(MAC),
        gratuitous_arp(MAC, "10.77.0.50"),
        neighbour_advertisement(MAC, "fd00::50"),
    )


def test_inside_a_vlan_of_the_guest_everything_is_tagged_and_rarp_comes_first():
    inner = ((0x8100, 20),)
    both = ((0x88A8, 100), *inner)
    assert Announcement(MAC, ("10.77.0.50",), ((inner, "10.20.0.50"), (both, "fd20::50"))).frames() == (
        rarp(MAC),
        tagged(rarp(MAC), inner),
        tagged(rarp(MAC), both),
        gratuitous_arp(MAC, "10.77.0.50"),
        tagged(gratuitous_arp(MAC, "10.20.0.50"), inner),
        tagged(neighbour_advertisement(MAC, "fd20::50"), both),
    )


async def test_announce_now_announces_every_nic_by_its_own_tap():
    first, second = Collector(), Collector()
    sent = announce_now([(first, Announcement(MAC)), (second, Announcement(OTHER_MAC, ("10.0.0.1",)))])
    assert sent == 3
    assert first.frames == [rarp(MAC)]
    assert second.frames == [rarp(OTHER_MAC), gratuitous_arp(OTHER_MAC, "10.0.0.1")]


async def test_a_broken_tap_does_not_silence_the_others():
    working = Collector()
    with pytest.raises(Failed, match="bscx: it is down"):
        announce_now([(Broken(), Announcement(MAC)), (working, Announcement(OTHER_MAC))])
    assert working.frames == [rarp(OTHER_MAC)]


async def test_repetitions_are_never_early_and_do_not_drift():
    tap = Collector()
    started_s = asyncio.get_running_loop().time()
    after_ms = (1, 4, 4, 9)
    await announce_again(lambda: announce_now([(tap, Announcement(MAC))]), after_ms=after_ms)
    assert tap.frames == [rarp(MAC)] * 4
    for at_s, at_ms in zip(tap.times_s, after_ms, strict=True):
        # The loop may wake up by one tick of its clock early.
        assert at_s >= started_s + at_ms / 1000 - 0.001


async def test_cancelling_stops_the_repetitions():
    tap = Collector()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await announce_again(lambda: announce_now([(tap, Announcement(MAC))]), after_ms=(0, 3_600_000))
    assert tap.frames == [rarp(MAC)]


def test_the_usual_repetitions_rise_and_end_within_a_second():
    assert list(REPETITIONS_MS) == sorted(set(REPETITIONS_MS))
    assert REPETITIONS_MS[0] > 0
    assert REPETITIONS_MS[-1] < 1000
