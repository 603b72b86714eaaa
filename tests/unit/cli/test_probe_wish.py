from __future__ import annotations

import pytest

from bascule.cli.probe_wish import Wish, parse_wish

VM = "10.77.0.50"


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("", "icmp", VM),
        ("icmp", "icmp", VM),
        ("arp", "arp", VM),
        ("udp", "udp", f"{VM}:7"),
        ("udp:9", "udp", f"{VM}:9"),
        ("tcp", "tcp", f"{VM}:7"),
        ("bulk", "bulk", f"{VM}:7"),
        ("bulk://192.0.2.9:9", "bulk", "192.0.2.9:9"),
        ("connect:22", "connect", f"{VM}:22"),
        ("http", "http", f"http://{VM}/"),
        ("http:8080", "http", f"http://{VM}:8080/"),
        ("192.0.2.9", "icmp", "192.0.2.9"),
        ("fd00::9", "icmp", "fd00::9"),
        ("[fd00::9]", "icmp", "fd00::9"),
        ("fe80::9%br0", "icmp", "fe80::9%br0"),
        ("web.example", "icmp", "web.example"),
        ("icmp://web", "icmp", "web"),
        ("udp://192.0.2.9", "udp", "192.0.2.9:7"),
        ("udp://[fd00::9]:9", "udp", "[fd00::9]:9"),
        ("udp://[fd00::9]", "udp", "[fd00::9]:7"),
        ("connect://web:443", "connect", "web:443"),
        ("http://web/check?deep=1", "http", "http://web/check?deep=1"),
        ("http://web:81/", "http", "http://web:81/"),
        ("http://[fd00::9]:81/", "http", "http://[fd00::9]:81/"),
    ],
)
def test_what_is_asked_of_whom(text: str, kind: str, target: str) -> None:
    wish = parse_wish(text)
    assert (wish.kind, wish.target(VM)) == (kind, target)


def test_a_vm_with_an_ipv6_address() -> None:
    assert parse_wish("udp").target("fd00::50") == "[fd00::50]:7"
    assert parse_wish("http").target("fe80::50%br0") == "http://[fe80::50%br0]/"
    assert parse_wish("").target("fd00::50") == "fd00::50"


def test_the_vms_own_address_is_wanted_only_where_none_is_said() -> None:
    assert parse_wish("connect:22") == Wish("connect", None, 22)
    assert parse_wish("connect://web:22").address == "web"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("connect", "connect needs a port, as in connect:22"),
        ("connect://web", "connect needs a port"),
        ("icmp:7", "icmp has no port"),
        ("arp://10.77.0.50:7", "arp has no port"),
        ("udp:70000", "there is no port 70000"),
        ("udp://web/page", "only http has a path"),
        ("web:7", "say how to ask, as in udp://web:7"),
        ("ftp://web", "say how to ask"),
        ("[fd00::9]:7", "say how to ask"),
    ],
)
def test_what_cannot_be_meant(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_wish(text)
