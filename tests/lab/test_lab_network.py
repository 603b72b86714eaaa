"""The network that a lab is: who reaches whom, at what rate, and what a cut does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bascule.lab.links import Cut, port_states

pytestmark = pytest.mark.lab

LISTEN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], 9), family=family)
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    with connection:
        total = 0
        while data := connection.recv(1 << 20):
            total += len(data)
        connection.sendall(str(total).encode())
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 9), timeout=float(sys.argv[3])) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
    connection.shutdown(socket.SHUT_WR)
    assert int(connection.recv(100)) == int(sys.argv[2])
"""
PATIENCE_S = 10.0


def listen(lab, member, address):
    server = lab.popen(member, [sys.executable, "-c", LISTEN, address], stdout=subprocess.PIPE)
    with server.stdout:
        assert server.stdout.readline() == b"listening\n"
    return server


def send(lab, member, address, *, size_bytes=1, patience_s=PATIENCE_S):
    """Whether `address` got the bytes, and how many seconds that took."""
    start_s = time.monotonic()
    done = lab.run(member, [sys.executable, "-c", SEND, address, str(size_bytes), str(patience_s)])
    return done.returncode == 0, time.monotonic() - start_s


def test_all_members_reach_one_another_at_once_by_both_families(lab, stand_in):
    it = lab(hosts=3, agent_command=stand_in)
    for host in it.hosts:
        for address in (host.member.address, host.member.address_v6):
            listen(it, host.name, address)
            for member in ("h1", "h2", "h3", "client"):
                assert send(it, member, address)[0], f"{member} does not reach {address}"


def test_a_host_has_a_bridge_with_its_uplink_and_a_fixed_mac(lab, stand_in):
    it = lab(hosts=2, agent_command=stand_in)
    links = {link["ifname"]: link for link in json.loads(it.run("h2", ["ip", "-json", "-details", "link"]).stdout)}
    assert set(links) == {"lo", "br0", "up0"}
    assert links["up0"]["master"] == "br0"
    assert links["br0"]["address"] == "02:00:0a:4d:00:02"
    assert links["br0"]["linkinfo"]["info_data"]["stp_state"] == 0
    it.run("h2", ["ip", "link", "add", "low", "address", "00:00:00:00:00:01", "master", "br0", "type", "dummy"])
    assert "02:00:0a:4d:00:02" in it.run("h2", ["ip", "link", "show", "br0"]).stdout
    # /sys shows the host's own interfaces, not the machine's
    assert it.run("h2", ["ls", "/sys/class/net/br0/brif"]).stdout.split()[-1] == "up0"


def test_the_root_namespace_sees_no_interface(lab, stand_in):
    before = {path.name for path in Path("/sys/class/net").iterdir()}
    own = Path("/proc/self/ns/net").stat().st_ino
    it = lab(hosts=2, agent_command=stand_in)
    for host in it.hosts:
        it.cut_link(host.name)
    added = {path.name for path in Path("/sys/class/net").iterdir()} - before
    assert not added & {"up0", "br0", "h1", "h2", "client"}
    assert Path("/proc/self/ns/net").stat().st_ino == own


def test_labs_side_by_side_have_the_same_addresses_and_do_not_meet(lab, stand_in):
    one, other = lab(hosts=1, agent_command=stand_in), lab(hosts=1, agent_command=stand_in)
    listen(one, "h1", "10.77.0.1")
    assert send(one, "client", "10.77.0.1")[0]
    assert not send(other, "client", "10.77.0.1")[0]
    assert one.qemu_uid != other.qemu_uid
    one.down()
    listen(other, "h1", "10.77.0.1")
    assert send(other, "client", "10.77.0.1")[0]


def test_a_limited_link_is_no_faster(lab, stand_in):
    it = lab(hosts=2, link_bit_s=20_000_000, agent_command=stand_in)
    listen(it, "h2", "10.77.0.2")
    arrived, took_s = send(it, "h1", "10.77.0.2", size_bytes=2_500_000)
    assert arrived
    # 2.5 MB at 20 Mbit/s: 1 s less what bucket and queue let through at once. How much slower it was is the
    # machine's business.
    assert took_s > 0.9


@pytest.mark.parametrize("how", list(Cut))
@pytest.mark.parametrize("member", ["h1", "client"])
def test_a_cut_link_carries_nothing_until_it_is_healed(lab, stand_in, how, member):
    it = lab(hosts=2, agent_command=stand_in)
    listen(it, "h2", "10.77.0.2")
    assert send(it, member, "10.77.0.2")[0]
    it.cut_link(member, how)
    assert not send(it, member, "10.77.0.2", patience_s=0.3)[0]
    assert port_states(it.name)[member] == how.value.replace("-", " ").replace("carrier", "carrier cut")
    carrier = it.run(member, ["cat", "/sys/class/net/up0/carrier"]).stdout.strip()
    assert carrier == ("0" if how is Cut.CARRIER else "1")
    it.heal_link(member)
    assert port_states(it.name)[member] == "up"
    assert send(it, member, "10.77.0.2")[0]
    it.heal_link(member)
    assert send(it, member, "10.77.0.2")[0]
