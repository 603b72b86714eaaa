"""Who claims which address: a VM for itself, a proxy or a router for others, another machine against the VM."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.network.claims import Claim, read
from bascule.network.frames import (
    arp_request,
    gratuitous_arp,
    mac_bytes,
    neighbour_advertisement,
    neighbour_solicitation,
    rarp,
    tagged,
)

VM = "52:54:00:aa:00:50"
OTHER = "52:54:00:aa:00:99"
MAC = mac_bytes(VM)
IP, NEIGHBOUR = ip_address("10.77.0.50"), ip_address("10.77.0.1")
IP6, NEIGHBOUR6 = ip_address("fd77::50"), ip_address("fd77::1")
ETHERNET = struct.Struct("!6s6sH")


def arp_reply(mac: str, sender: str, to: str, target: str) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    body += mac_bytes(mac) + ip_address(sender).packed + mac_bytes(to) + ip_address(target).packed
    return ETHERNET.pack(mac_bytes(to), mac_bytes(mac), 0x0806) + body


def proxied_advertisement(mac: str, target: str, source: str, to: str) -> bytes:
    """As a proxy answers: solicited, without the override flag (RFC 4861, 7.2.8)."""
    message = struct.pack("!BBHI", 136, 0, 0, 0x40000000) + IPv6Address(target).packed + b"\x02\x01" + mac_bytes(mac)
    packet = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + IPv6Address(source).packed + IPv6Address(to).packed
    return ETHERNET.pack(mac_bytes(OTHER), mac_bytes(mac), 0x86DD) + packet + message


def test_a_request_names_the_sender_and_whom_it_wants():
    assert read(arp_request(VM, str(IP), str(NEIGHBOUR)), MAC) == Claim((), IP, neighbour=NEIGHBOUR)
    assert read(neighbour_solicitation(VM, str(IP6), str(NEIGHBOUR6)), MAC) == Claim((), IP6, neighbour=NEIGHBOUR6)


def test_announcements_of_the_vm_itself_are_certain():
    assert read(gratuitous_arp(VM, str(IP)), MAC) == Claim((), IP)
    assert read(arp_reply(VM, str(IP), VM, str(IP)), MAC) == Claim((), IP)
    assert read(neighbour_advertisement(VM, str(IP6)), MAC) == Claim((), IP6)


def test_a_reply_is_not_certain_since_it_may_be_a_proxys():
    assert read(arp_reply(VM, "10.88.0.7", OTHER, str(NEIGHBOUR)), MAC) == Claim(
        (), ip_address("10.88.0.7"), certain=False, neighbour=NEIGHBOUR
    )


def test_a_proxy_for_ipv6_claims_only_the_address_it_answers_from():
    claim = read(proxied_advertisement(VM, "fd88::7", str(IP6), str(NEIGHBOUR6)), MAC)
    assert claim == Claim((), IP6, neighbour=NEIGHBOUR6)


def test_what_was_forwarded_claims_nothing():
    forwarded = bytearray(neighbour_solicitation(VM, "fd88::7", str(NEIGHBOUR6)))
    forwarded[21] = 254  # the hop limit, one less
    assert read(bytes(forwarded), MAC) is None
    udp = (
        ETHERNET.pack(mac_bytes(OTHER), MAC, 0x0800) + bytes.fromhex("45000020") + bytes(8) + bytes([10, 88, 0, 7] * 2)
    )
    assert read(udp, MAC) is None
    assert read(rarp(VM), MAC) is None


def test_probes_for_duplicates_claim_nothing():
    assert read(arp_request(VM, str(IPv4Address(0)), str(IP)), MAC) is None
    assert read(neighbour_solicitation(VM, "::", str(IP6)), MAC) is None


def test_another_machines_announcement_is_a_claim_against_the_vm():
    assert read(gratuitous_arp(OTHER, str(IP)), MAC) == Claim((), IP, by_another=True)
    assert read(neighbour_advertisement(OTHER, str(IP6)), MAC) == Claim((), IP6, by_another=True)


def test_another_machines_questions_and_answers_are_none():
    assert read(arp_request(OTHER, str(NEIGHBOUR), str(IP)), MAC) is None
    assert read(arp_reply(OTHER, str(NEIGHBOUR), VM, str(IP)), MAC) is None
    assert read(neighbour_solicitation(OTHER, str(NEIGHBOUR6), str(IP6)), MAC) is None


def test_a_frame_in_which_the_vm_gives_another_mac_is_not_its_own():
    frame = arp_request(OTHER, str(IP), str(NEIGHBOUR))
    assert read(frame[:6] + MAC + frame[12:], MAC) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_what_is_no_machines_address_is_not_claimed(address: str):
    assert read(gratuitous_arp(VM, address), MAC) is None


def test_tags_are_kept_those_in_the_frame_and_the_one_taken_out():
    plain, inner, outer = gratuitous_arp(VM, str(IP)), ((0x8100, 20),), ((0x88A8, 100),)
    assert read(tagged(plain, inner), MAC) == Claim(inner, IP)
    assert read(tagged(plain, outer + inner), MAC) == Claim(outer + inner, IP)
    assert read(tagged(plain, inner), MAC, outer) == Claim(outer + inner, IP)
    assert read(plain, MAC, inner) == Claim(inner, IP)


def test_the_priority_in_a_tag_is_no_part_of_the_vlan():
    frame = gratuitous_arp(VM, str(IP))
    assert read(frame[:12] + bytes.fromhex("8100e014") + frame[12:], MAC) == Claim(((0x8100, 20),), IP)


@given(st.binary(max_size=128), st.integers(0, 120))
def test_nothing_that_comes_breaks_it(noise: bytes, kept: int):
    read(noise, MAC)
    for frame in (gratuitous_arp(VM, str(IP)), neighbour_solicitation(VM, str(IP6), str(NEIGHBOUR6))):
        read(frame[:kept] + noise, MAC)
