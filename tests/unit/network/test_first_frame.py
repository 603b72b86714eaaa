"""Which frames only tell where their sender is."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from bascule.network.first_frame import is_announcement
from bascule.network.frames import gratuitous_arp, neighbour_advertisement, rarp

MAC = "52:54:00:77:00:32"
HEADER = bytes(12)


@pytest.mark.parametrize(
    "frame",
    [
        rarp(MAC),
        gratuitous_arp(MAC, IPv4Address("10.77.0.50")),
        neighbour_advertisement(MAC, IPv6Address("fd77::50")),
    ],
)
def test_announcements_are_known(frame: bytes) -> None:
    assert is_announcement(frame)


ARP_ANSWER = HEADER + bytes.fromhex("0806 0001 0800 06 04 0002") + MAC.encode()[:6] + bytes([10, 0, 0, 1])
ARP_ANSWER += bytes(6) + bytes([10, 0, 0, 2])
SOLICITED = bytearray(neighbour_advertisement(MAC, IPv6Address("fd77::50")))
SOLICITED[58] |= 0x40


@pytest.mark.parametrize(
    "frame",
    [b"", HEADER, HEADER + b"\x08\x00" + bytes(40), ARP_ANSWER, bytes(SOLICITED), HEADER + b"\x86\xdd" + bytes(50)],
)
def test_what_a_guest_has_to_say_is_none(frame: bytes) -> None:
    assert not is_announcement(frame)
