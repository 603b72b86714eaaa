from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from bascule.network.vm_addresses import Heard, preferred, take

MAC = bytes.fromhex("525400770032")
OTHER = bytes.fromhex("525400000001")
GUEST, GUEST_V6 = IPv4Address("10.77.0.50"), IPv6Address("fd77::50")


def arp(sender: str) -> bytes:
    body = bytes.fromhex("00010800060400020000")[:8] + MAC + IPv4Address(sender).packed + OTHER + bytes(4)
    return OTHER + MAC + b"\x08\x06" + body


def ipv4(source: str) -> bytes:
    return OTHER + MAC + b"\x08\x00" + bytes([0x45]) + bytes(11) + IPv4Address(source).packed + bytes(4)


def ipv6(source: str, *, protocol: int = 6, message: bytes = b"") -> bytes:
    header = bytes([0x60, 0, 0, 0, 0, len(message), protocol, 255])
    return OTHER + MAC + b"\x86\xdd" + header + IPv6Address(source).packed + bytes(16) + message


def heard(*frames: bytes) -> Heard:
    found = Heard()
    for frame in frames:
        take(frame, found)
    return found


def test_what_a_machine_calls_itself_is_certain() -> None:
    assert heard(arp("10.77.0.50")).certain == {GUEST}
    solicitation = ipv6("fd77::50", protocol=58, message=bytes([135]) + bytes(23))
    assert heard(solicitation).certain == {GUEST_V6}
    advertised = bytes([136, 0, 0, 0, 0, 0, 0, 0]) + GUEST_V6.packed
    assert heard(ipv6("fe80::1", protocol=58, message=advertised)).certain == {GUEST_V6, IPv6Address("fe80::1")}


def test_a_source_is_certain_only_when_it_is_the_only_one() -> None:
    assert heard(ipv4("10.77.0.50"), ipv4("10.77.0.50")).certain == {GUEST}
    router = heard(ipv4("10.77.0.50"), ipv4("192.0.2.1"))
    assert router.certain == set()
    assert len(router.sources) == 2
    assert heard(ipv4("192.0.2.1"), ipv4("10.0.0.1"), arp("10.77.0.50")).certain == {GUEST}


def test_what_names_nobody_is_passed_over() -> None:
    """An ARP probe comes from 0.0.0.0, duplicate address detection from ::."""
    nobody = ipv6("::", protocol=58, message=bytes([135]) + bytes(23))
    assert heard(arp("0.0.0.0"), nobody, ipv4("127.0.0.1"), ipv4("224.0.0.1")).certain == set()  # noqa: S104


@pytest.mark.parametrize("frame", [arp("10.77.0.50"), ipv4("10.77.0.50"), ipv6("fd77::50")])
def test_a_frame_that_is_cut_short_is_no_error(frame: bytes) -> None:
    for length in range(len(frame)):
        heard(frame[:length])


def test_which_one_a_client_would_use() -> None:
    addresses = [ip_address(text) for text in ("fe80::1", "fd77::50", "169.254.1.1", "10.77.0.51", "10.77.0.50")]
    assert preferred(addresses) == GUEST
    assert preferred(addresses[:2]) == GUEST_V6
    assert preferred(addresses[:1]) == addresses[0]
    assert preferred([]) is None
