"""Bridges of a real kernel."""

from __future__ import annotations

from typing import Any

import pytest

from bascule.network.bridge import check_bridge, exists, read_bridge

pytestmark = pytest.mark.lab

GUEST = "52:54:00:aa:00:50"


def test_a_bridge_is_described(net: Any):
    net.a.ip("address", "add", "10.77.0.1/24", "dev", "br0")
    net.a.ip("address", "add", "fd77::1/64", "dev", "br0", "nodad")
    bridge = net.a.run(read_bridge, "br0")
    assert bridge.is_up
    assert bridge.ports == ("up0",)
    assert {"10.77.0.1/24", "fd77::1/64"} <= {str(address) for address in bridge.addresses}
    assert bridge.port_delay_s == 0
    assert net.a.run(exists, "br0")
    assert net.a.run(check_bridge, "br0") == []
    assert net.ports_of(net.a, bridge.mac) == [], "its own address is not one that it has learned"


def test_spanning_tree_makes_a_new_port_wait(net: Any):
    net.a.ip("link", "add", "br1", "type", "bridge", "stp_state", "1", "forward_delay", "400")
    assert net.a.run(read_bridge, "br1").port_delay_s == 8
    (finding,) = net.a.run(check_bridge, "br1")
    assert finding.problem == "it is down"
