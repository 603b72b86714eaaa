"""Listening at a tap: what a guest says of its addresses is heard, and little else wakes anybody."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from bascule.network.claims import Claim
from bascule.network.ear import MOST_AT_ONCE, Ear
from bascule.network.frames import (
    arp_request,
    gratuitous_arp,
    mac_bytes,
    neighbour_advertisement,
    neighbour_solicitation,
    rarp,
    tagged,
)

pytestmark = pytest.mark.lab

GUEST, CLIENT = "52:54:00:aa:00:50", "52:54:00:aa:00:99"
VLAN, OUTER = ((0x8100, 20),), ((0x88A8, 100),)
LAST = IPv4Address("10.77.9.9")
UDP = mac_bytes(CLIENT) + mac_bytes(GUEST) + b"\x08\x00\x45\x00" + bytes(60)


def heard(net: Any, *, do: Callable[[], None], until: Callable[[list[Claim]], bool]) -> tuple[list[Claim], int]:
    """The claims that an ear at host A's tap hears, and how often it was woken."""
    claims: list[Claim] = []
    wakings = 0

    async def listen() -> None:
        nonlocal wakings
        ear = Ear("bsctest0", GUEST, lambda claim, _frame: claims.append(claim))
        catch_up = ear.catch_up

        def counted() -> None:
            nonlocal wakings
            wakings += 1
            catch_up()

        ear.catch_up = counted  # type: ignore[method-assign]
        try:
            await asyncio.to_thread(do)
            async with asyncio.timeout(20):
                while not until(claims):  # noqa: ASYNC110 - the kernel sends no notice
                    await asyncio.sleep(0.01)
        finally:
            ear.close()

    net.a.run(lambda: asyncio.run(listen()))
    return claims, wakings


def test_what_the_guest_says_of_itself_is_heard_and_what_others_claim_from_it(net: Any):
    tap = net.tap(net.a, "bsctest0")
    client = net.capture(net.client, "eth0")
    plain = [
        arp_request(GUEST, "10.77.0.50", "10.77.0.1"),
        neighbour_solicitation(GUEST, "fd77::50", "fd77::1"),
        neighbour_advertisement(GUEST, "fd77::51"),
    ]
    noise = [rarp(GUEST), UDP, gratuitous_arp(CLIENT, "10.77.0.99"), arp_request(CLIENT, "10.77.0.99", "10.77.0.50")]

    def speak() -> None:
        for frame in [*noise, *plain, *(tagged(frame, VLAN) for frame in plain)]:
            tap.inject(frame)
        tap.inject(tagged(plain[0], OUTER + VLAN))
        client.send(arp_request(CLIENT, "10.77.0.99", "10.77.0.50"))
        client.send(gratuitous_arp(CLIENT, "10.77.0.77"))
        client.send(neighbour_advertisement(CLIENT, "fd77::77"))

    def all_there(claims: list[Claim]) -> bool:
        return len([claim for claim in claims if claim.by_another]) >= 3 and len(claims) >= 10

    claims, _ = heard(net, do=speak, until=all_there)
    own = [
        Claim((), IPv4Address("10.77.0.50"), neighbour=IPv4Address("10.77.0.1")),
        Claim((), IPv6Address("fd77::50"), neighbour=IPv6Address("fd77::1")),
        Claim((), IPv6Address("fd77::51")),
    ]
    in_vlan = [Claim(VLAN, claim.address, neighbour=claim.neighbour) for claim in own]
    in_both = Claim(OUTER + VLAN, own[0].address, neighbour=own[0].neighbour)
    assert [claim for claim in claims if not claim.by_another] == [*own, *in_vlan, in_both]
    assert [claim.address for claim in claims if claim.by_another] == [
        IPv4Address("10.77.0.99"),  # as the guest itself has sent it, with another MAC
        IPv4Address("10.77.0.77"),
        IPv6Address("fd77::77"),
    ]


def test_a_flood_wakes_nobody_often_and_does_not_deafen(net: Any):
    tap = net.tap(net.a, "bsctest0")
    began_s = time.monotonic()

    def flood() -> None:
        for number in range(20_000):
            tap.inject(arp_request(GUEST, IPv4Address("10.78.0.0") + number, "10.77.0.1"))
            tap.inject(UDP)

    def until_the_last(claims: list[Claim]) -> bool:
        tap.inject(gratuitous_arp(GUEST, LAST))
        return claims[-1:] == [Claim((), LAST)]

    claims, wakings = heard(net, do=flood, until=until_the_last)
    passed_s = time.monotonic() - began_s
    assert wakings <= passed_s / 0.2 + 2
    assert len(claims) <= wakings * MOST_AT_ONCE


def test_a_tap_that_goes_away_is_no_trouble(net: Any):
    tap = net.tap(net.a, "bsctest0")

    async def listen() -> None:
        ear = Ear("bsctest0", GUEST, lambda _claim, _frame: None)
        await asyncio.to_thread(tap.close)
        while "bsctest0" in {name for _, name in socket.if_nameindex()}:  # noqa: ASYNC110 - the kernel sends no notice
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        ear.catch_up()
        ear.close()

    net.a.run(lambda: asyncio.run(listen()))


def test_no_such_tap_is_said(net: Any):
    async def listen() -> None:
        Ear("bscnone", GUEST, lambda _claim, _frame: None)

    with pytest.raises(OSError, match="No such device"):
        net.a.run(lambda: asyncio.run(listen()))
