from __future__ import annotations

import pytest

from bascule.lab.names import Member
from bascule.lab.topology import build_batches

MEMBERS = [Member.host(1), Member.host(2), Member.client()]


@pytest.mark.parametrize("ipv6", [True, False])
@pytest.mark.parametrize("link_bit_s", [None, 10**9])
def test_the_root_namespace_only_ever_makes_namespaces(link_bit_s, ipv6):
    batches = build_batches("x", MEMBERS, link_bit_s=link_bit_s, ipv6=ipv6)
    outside = [batch for batch in batches if batch.namespace is None]
    assert [batch.lines for batch in outside] == [
        ("netns add bsc-x-sw", "netns add bsc-x-h1", "netns add bsc-x-h2", "netns add bsc-x-client")
    ]
    assert batches[0] is outside[0]


def test_each_cable_ends_in_its_members_namespace():
    switch = build_batches("x", MEMBERS, link_bit_s=None, ipv6=True)[1]
    assert switch.namespace == "bsc-x-sw"
    for name in ("h1", "h2", "client"):
        assert f"link add {name} type veth peer name up0 netns bsc-x-{name}" in switch.lines


def test_a_host_has_its_addresses_on_the_bridge_and_the_client_on_its_uplink():
    lines = {batch.namespace: batch.lines for batch in build_batches("x", MEMBERS, link_bit_s=None, ipv6=True)}
    assert "address add 10.77.0.2/24 dev br0" in lines["bsc-x-h2"]
    assert "address add fd77:ba5c:1e::2/64 dev br0 nodad" in lines["bsc-x-h2"]
    assert "address add 10.77.0.100/24 dev up0" in lines["bsc-x-client"]
    assert not any("bridge" in line for line in lines["bsc-x-client"])


def test_a_rate_limits_both_ends_of_every_link():
    batches = [batch for batch in build_batches("x", MEMBERS, link_bit_s=10**8, ipv6=True) if batch.program == "tc"]
    limited = {(batch.namespace, line.split()[3]) for batch in batches for line in batch.lines}
    assert limited == {
        *(("bsc-x-sw", name) for name in ("h1", "h2", "client")),
        *((f"bsc-x-{name}", "up0") for name in ("h1", "h2", "client")),
    }


def test_a_machine_without_ipv6_is_asked_for_none():
    lines = [line for batch in build_batches("x", MEMBERS, link_bit_s=None, ipv6=False) for line in batch.lines]
    assert not [line for line in lines if "::" in line or "addrgenmode" in line]
