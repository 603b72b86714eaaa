from __future__ import annotations

import socket

import pytest

from bascule.errors import Refused
from bascule.network.probe.target import parse_target


def test_addresses() -> None:
    assert parse_target("udp", "10.77.0.50:7").address == ("10.77.0.50", 7)
    six = parse_target("tcp", "[fd00::50]:7")
    assert (six.family, six.address[:2]) == (socket.AF_INET6, ("fd00::50", 7))


@pytest.mark.parametrize(
    ("url", "port", "host", "path"),
    [
        ("http://10.77.0.50", 80, "10.77.0.50", "/"),
        ("http://10.77.0.50:8080/status?x=1", 8080, "10.77.0.50:8080", "/status?x=1"),
    ],
)
def test_urls(url: str, port: int, host: str, path: str) -> None:
    target = parse_target("http", url)
    assert (target.address, target.host, target.path) == (("10.77.0.50", port), host, path)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("udp", "10.77.0.50"),
        ("udp", "10.77.0.50:x"),
        ("udp", "10.77.0.50:0"),
        ("udp", "10.77.0.50:70000"),
        ("tcp", "10.77.0.50:7/path"),
        ("tcp", "[fd00::50:7"),
        ("tcp", ""),
        ("http", "10.77.0.50"),
        ("http", "https://10.77.0.50/"),
        ("http", "http://"),
    ],
)
def test_what_is_no_target(kind: str, text: str) -> None:
    with pytest.raises(Refused, match="no target") as refused:
        parse_target(kind, text)
    assert "write it as" in refused.value.remedy


def test_an_unknown_name() -> None:
    with pytest.raises(Refused, match="cannot be resolved"):
        parse_target("udp", "no-such-host.invalid:7")
