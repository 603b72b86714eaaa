"""Frames are taken apart here by hand, by the offsets of the RFCs, not by the code that built them."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.network.frames import (
    arp_request,
    gratuitous_arp,
    internet_checksum,
    mac_bytes,
    neighbour_advertisement,
    neighbour_solicitation,
    rarp,
    tagged,
)

MAC = "52:54:00:12:34:56"
HARDWARE = bytes.fromhex("525400123456")


def test_rarp_is_what_qemu_sends():
    assert rarp(MAC) == bytes.fromhex(
        "ffffffffffff 525400123456 8035"  # to everybody, from the guest, RARP
        "0001 0800 06 04 0003"  # Ethernet, IPv4, their lengths, request reverse
        "525400123456 00000000 525400123456 00000000" + 18 * "00"
    )


def test_gratuitous_arp_asks_for_its_own_address():
    frame = gratuitous_arp(MAC, "10.77.0.50")
    assert len(frame) == 60
    assert frame[0:6] == b"\xff" * 6
    assert frame[6:12] == HARDWARE
    kind, hardware, protocol, hardware_bytes, protocol_bytes, operation = struct.unpack("!HHHBBH", frame[12:22])
    assert (kind, hardware, protocol, hardware_bytes, protocol_bytes, operation) == (0x0806, 1, 0x0800, 6, 4, 1)
    assert frame[22:28] == HARDWARE
    assert frame[28:32] == bytes([10, 77, 0, 50]) == frame[38:42]
    assert frame[32:38] == bytes(6)
    assert frame[42:] == bytes(18)


@given(mac=st.binary(min_size=6, max_size=6), address=st.ip_addresses(v=6))
def test_neighbour_advertisement(mac: bytes, address: IPv6Address):
    frame = neighbour_advertisement(mac.hex(":"), address)
    assert frame[0:6] == bytes.fromhex("333300000001")
    assert frame[6:12] == mac
    assert frame[12:14] == b"\x86\xdd"
    version, payload_bytes, next_header, hop_limit = struct.unpack("!IHBB", frame[14:22])
    assert (version, payload_bytes, next_header, hop_limit) == (0x60000000, 32, 58, 255)
    assert frame[22:38] == address.packed
    assert frame[38:54] == IPv6Address("ff02::1").packed
    message = frame[54:]
    assert len(message) == 32
    assert message[:2] == b"\x88\x00"
    assert message[4:8] == b"\x20\x00\x00\x00"  # override; neither router nor solicited
    assert message[8:24] == address.packed
    assert message[24:26] == b"\x02\x01"
    assert message[26:32] == mac
    # A receiver adds up the pseudo header and the message with its checksum, and expects all ones.
    covered = frame[22:54] + (32).to_bytes(4, "big") + bytes([0, 0, 0, 58]) + message
    total = sum(int.from_bytes(covered[i : i + 2], "big") for i in range(0, len(covered), 2))
    assert total % 0xFFFF == 0
    assert total > 0


def test_checksum_of_the_example_in_rfc_1071():
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


def test_checksum_pads_an_odd_byte():
    assert internet_checksum(b"\x12") == 0xFFFF - 0x1200


@pytest.mark.parametrize("text", ["", "52:54:00:12:34", "52-54-00-12-34-56", "52:54:00:12:34:zz", "525:4:00:12:34:56"])
def test_what_is_no_mac_is_refused(text: str):
    with pytest.raises(ValueError, match="is not a MAC address"):
        mac_bytes(text)


def test_addresses_of_the_wrong_family_are_refused():
    with pytest.raises(ValueError, match="fe80::1"):
        gratuitous_arp(MAC, "fe80::1")
    with pytest.raises(ValueError, match=r"10\.0\.0\.1"):
        neighbour_advertisement(MAC, "10.0.0.1")


def test_an_arp_request_asks_everybody_for_another_address():
    frame = arp_request(MAC, "10.77.0.50", "10.77.0.1")
    assert frame[0:6] == b"\xff" * 6
    assert frame[20:22] == bytes([0, 1])
    assert (frame[28:32], frame[32:38], frame[38:42]) == (bytes([10, 77, 0, 50]), bytes(6), bytes([10, 77, 0, 1]))


def test_a_solicitation_goes_to_the_group_of_the_address_that_it_wants():
    sender, wanted = IPv6Address("fd77::50"), IPv6Address("fd77::ab:cdef:1234")
    frame = neighbour_solicitation(MAC, sender, wanted)
    group = IPv6Address("ff02::1:ffef:1234").packed
    assert frame[0:6] == bytes.fromhex("3333ffef1234")
    assert frame[12:14] == bytes.fromhex("86dd")
    assert (frame[20], frame[21]) == (58, 255)
    assert (frame[22:38], frame[38:54]) == (sender.packed, group)
    message = frame[54:86]
    assert (message[0], message[1], message[4:8]) == (135, 0, bytes(4))
    assert message[8:24] == wanted.packed
    assert message[24:32] == bytes([1, 1]) + HARDWARE
    assert internet_checksum(sender.packed + group + struct.pack("!IxxxB", len(message), 58) + message) == 0
    assert len(frame) == 86


def test_tags_stand_between_the_addresses_and_the_rest():
    frame = tagged(rarp(MAC), ((0x88A8, 100), (0x8100, 20)))
    assert frame == rarp(MAC)[:12] + bytes.fromhex("88a80064 81000014") + rarp(MAC)[12:]
    assert tagged(rarp(MAC), ()) == rarp(MAC)
