"""Every kind of probe counts exactly what was done to its frames, over IPv4 and IPv6."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.probe_line import (
    GREETING,
    PATIENCE_S,
    PORT,
    SERVER,
    SERVER_V6,
    ArpNumbers,
    Line,
    Relay,
    Rules,
    Service,
    SynNumbers,
    build_line,
    ip,
    wait_until,
)

from bascule.errors import Refused
from bascule.network.outage import Outage, outage_between
from bascule.network.probe.format import load_samples
from bascule.network.probe.samples import Samples
from bascule.network.probe.session import ProbeSession

pytestmark = pytest.mark.lab

MS = 1_000_000


@pytest.fixture
def relayed() -> Iterator[Line]:
    with build_line(relay=True) as line:
        yield line


@pytest.fixture
def direct() -> Iterator[Line]:
    with build_line(relay=False) as line:
        yield line


def start(line: Line, folder: Path, hz: float = 500, **targets: Any) -> ProbeSession:
    return ProbeSession.start(folder / "recording", namespace=line.client.name, hz=hz, **targets)


def ask(probe: ProbeSession, kind: str, count: int) -> tuple[Samples, Outage]:
    """Let it ask `count` times at least, and return all that it saw."""
    probe.wait_connected()
    assert not probe.silent
    wait_until(lambda: len(probe.samples(kind).sent_at_ns) >= count, f"{count} probes by {kind}")
    probe.stop()
    samples = probe.samples(kind)
    return samples, outage_between(samples, 0, time.monotonic_ns(), origin_ns=0)


def gap_ms(samples: Samples, first: int, last: int) -> float:
    """How long nothing came while the probes `first` to `last` were lost: by arrivals, the one before may be late."""
    after = min(place for place, number in enumerate(samples.answer_sequence) if number > last)
    return (samples.answer_at_ns[after] - samples.answer_at_ns[after - 1]) / MS


@pytest.mark.parametrize(
    ("kind", "target"),
    [("icmp", SERVER), ("icmp", SERVER_V6), ("udp", f"{SERVER}:{PORT}"), ("udp", f"[{SERVER_V6}]:{PORT}")],
)
def test_numbered_answers(relayed: Line, tmp_path: Path, kind: str, target: str) -> None:
    """Loss, duplicates and reordering, on the way there and on the way back."""
    assert relayed.middle is not None
    requests = Rules(drop=frozenset(range(50, 70)), copies={100: 1, 110: 3}, hold_until={120: 123})
    answers = Rules(drop=frozenset({150, 151, 155}), copies={160: 2}, hold_until={180: 183, 181: 183, 200: 220})
    address = SERVER_V6 if SERVER_V6 in target else SERVER
    with (
        Service(relayed.server, address),
        Relay(relayed.middle, ("near", "far"), requests, answers),
        start(relayed, tmp_path, **{kind: target}) as probe,
    ):
        samples, seen = ask(probe, kind, 300)
    assert (seen.lost, seen.duplicated, seen.reordered) == (20 + 3, (1 + 3) + 2, 1 + 2 + 1)
    assert seen.sent == len(samples.sent_at_ns) >= 300
    lost_at = {at for at, trip in seen.samples if trip is None}
    assert lost_at == {round(samples.sent_at_ns[number] / 1e9, 6) for number in (*range(50, 70), 150, 151, 155)}
    assert seen.longest_silence_ms is not None
    assert seen.longest_silence_ms >= round(gap_ms(samples, 50, 69), 4)


@pytest.mark.parametrize("address", [SERVER, SERVER_V6])
def test_a_service_that_misbehaves(direct: Line, tmp_path: Path, address: str) -> None:
    """The echo server itself drops, repeats and reorders, and keeps count of what it did."""
    rules = Rules(
        drop=frozenset({*range(20, 31), 200}), copies={50: 1, 60: 4}, hold_until={100: 105, 101: 105, 150: 151}
    )
    target = f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"
    with Service(direct.server, address, rules) as service, start(direct, tmp_path, udp=target) as probe:
        _, seen = ask(probe, "udp", 250)
    assert (seen.lost, seen.duplicated, seen.reordered) == (12, 5, 3)
    assert len(service.answered) - service.answered.count(GREETING) == seen.sent - 12 + 5


def test_arp(relayed: Line, tmp_path: Path) -> None:
    """One question at a time: what is lost was asked again a little later, and is counted all the same."""
    assert relayed.middle is not None
    requests = Rules(drop=frozenset({100, 101, 110, 111, 112}))
    answers = Rules(copies={40: 1, 50: 2})
    with (
        Relay(relayed.middle, ("near", "far"), requests, answers, ArpNumbers()),
        start(relayed, tmp_path, arp=SERVER) as probe,
    ):
        samples, seen = ask(probe, "arp", 150)
    assert (seen.lost, seen.duplicated, seen.reordered) == (5, 3, 0)
    assert "reordering cannot be seen" in seen.note
    assert seen.longest_silence_ms is not None
    assert seen.longest_silence_ms >= round(gap_ms(samples, 110, 112), 4)


def test_two_machines_with_one_address(relayed: Line, tmp_path: Path) -> None:
    """The questions to all get two answers, from different MACs; those to the first one's MAC get one."""
    assert relayed.middle is not None
    for name in ("near", "far"):
        relayed.middle.link(name, "down")
    ip("-n", relayed.middle.name, "link", "add", "name", "wires", "type", "bridge")
    for name in ("near", "far"):
        ip("-n", relayed.middle.name, "link", "set", name, "master", "wires", "up")
    ip("-n", relayed.middle.name, "address", "add", f"{SERVER}/24", "dev", "wires")
    ip("-n", relayed.middle.name, "link", "set", "wires", "up")
    with start(relayed, tmp_path, hz=100, arp=SERVER) as probe:
        _, seen = ask(probe, "arp", 50)
    assert (seen.lost, seen.duplicated) == (0, 0)
    assert "also claimed by another MAC" in seen.note


@pytest.mark.parametrize("address", [SERVER, SERVER_V6])
def test_connections_made_and_lost(relayed: Line, tmp_path: Path, address: str) -> None:
    """A lost SYN is sent again by the kernel a second later: that counts as lost, as does a lost answer."""
    assert relayed.middle is not None
    requests, answers = Rules(drop=frozenset(range(30, 40))), Rules(drop=frozenset({50, 60}))
    target = f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"
    with (
        Service(relayed.server, address),
        Relay(relayed.middle, ("near", "far"), requests, answers, SynNumbers()),
        start(relayed, tmp_path, hz=100, connect=target) as probe,
    ):
        samples, seen = ask(probe, "connect", 100)
    unanswered = set(range(len(samples.sent_at_ns))) - set(samples.answer_sequence)
    assert unanswered == {*range(30, 40), 50, 60}
    assert (seen.lost, seen.duplicated, seen.reordered) == (12, 0, 0)
    assert "refused" not in seen.note


@pytest.mark.parametrize("address", [SERVER, SERVER_V6])
def test_a_refused_port_is_an_answer(direct: Line, tmp_path: Path, address: str) -> None:
    target = f"[{address}]:9" if ":" in address else f"{address}:9"
    with start(direct, tmp_path, connect=target) as probe:
        _, seen = ask(probe, "connect", 50)
    assert seen.lost == 0
    assert f"{seen.sent} times the port was refused (RST)" in seen.note


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("icmp", SERVER),
        ("icmp", SERVER_V6),
        ("arp", SERVER),
        ("connect", f"{SERVER}:9"),
        ("connect", f"[{SERVER_V6}]:9"),
    ],
)
def test_a_link_that_is_cut(direct: Line, tmp_path: Path, kind: str, target: str) -> None:
    """The silence lasts as long as the cut did; the answers stop and come again.

    What is asked meanwhile is lost, or waits in a kernel that looks for its neighbour anew: nothing is answered before.
    """
    with start(direct, tmp_path, hz=200, **{kind: target}) as probe:
        probe.wait_connected()
        wait_until(lambda: len(probe.samples(kind).answer_at_ns) >= 50, "answers")
        direct.server.link("cable", "down")
        cut_ns = time.monotonic_ns()
        wait_until(lambda: time.monotonic_ns() > cut_ns + 300 * MS, "the clock")
        mended_ns = time.monotonic_ns()
        direct.server.link("cable", "up")
        if ":" in target.split("]", maxsplit=1)[0].rsplit(".", maxsplit=1)[-1]:  # an IPv6 address goes with its link
            ip("-n", direct.server.name, "address", "replace", f"{SERVER_V6}/64", "dev", "cable", "nodad")
        heard = len(probe.samples(kind).answer_at_ns)
        wait_until(lambda: len(probe.samples(kind).answer_at_ns) >= heard + 20, "answers again")
        probe.stop(timeout_s=PATIENCE_S)
        samples = probe.samples(kind)
        seen = outage_between(samples, 0, time.monotonic_ns())
    asked = samples.sent_in(cut_ns, mended_ns)
    answered = [at for number, at in zip(samples.answer_sequence, samples.answer_at_ns, strict=True) if number in asked]
    assert len(asked) > 0
    assert all(at >= mended_ns for at in answered)
    assert seen.lost >= len(asked) - len(answered)
    assert seen.longest_silence_ms is not None
    assert seen.longest_silence_ms >= (mended_ns - cut_ns) / MS
    assert seen.duplicated == 0


@pytest.mark.parametrize("address", [SERVER, SERVER_V6])
def test_a_ping_socket_where_the_group_may_have_one(direct: Line, tmp_path: Path, address: str) -> None:
    """The kernel then writes the identifier; the figures are the same."""
    table = Path("/proc/thread-self/net/icmp6" if ":" in address else "/proc/thread-self/net/icmp")
    direct.client.run(Path("/proc/sys/net/ipv4/ping_group_range").write_text, "0 0")
    with start(direct, tmp_path, icmp=address) as probe:
        probe.wait_connected()
        assert len(direct.client.run(table.read_text).splitlines()) == 2
        wait_until(lambda: len(probe.samples("icmp").answer_at_ns) >= 50, "answers")
        probe.stop()
        seen = outage_between(probe.samples("icmp"), 0, time.monotonic_ns())
    assert (seen.lost, seen.duplicated, seen.reordered) == (0, 0, 0)


def test_probes_side_by_side_do_not_hear_each_other(direct: Line, tmp_path: Path) -> None:
    """Raw sockets are shown every answer that comes to the machine: a filter keeps those of others out."""
    with (
        ProbeSession.start(tmp_path / "one", namespace=direct.client.name, icmp=SERVER, hz=200) as one,
        ProbeSession.start(tmp_path / "two", namespace=direct.client.name, icmp=SERVER, hz=300) as two,
    ):
        for probe in (one, two):
            probe.wait_connected()
        for probe in (one, two):
            wait_until(lambda probe=probe: len(probe.samples("icmp").answer_at_ns) >= 100, "answers")
            probe.stop()
            samples = probe.samples("icmp")
            assert (len(samples.answer_sequence), samples.events) == (len(samples.sent_at_ns), [])


@pytest.mark.parametrize(
    ("kind", "target", "told"),
    [
        ("arp", "192.0.2.77", "nobody on cable has that address"),
        ("arp", "192.0.2.1", "an address of this machine itself"),
        ("arp", "198.51.100.1", "behind gateway 192.0.2.2"),
        ("icmp", "2001:db8::1", "Network is unreachable"),
        ("connect", "[2001:db8::1]:80", "Network is unreachable"),
    ],
)
def test_what_cannot_be_asked(direct: Line, tmp_path: Path, kind: str, target: str, told: str) -> None:
    ip("-n", direct.client.name, "route", "add", "198.51.100.0/24", "via", SERVER)
    with (
        start(direct, tmp_path, connect_timeout_s=0.5, **{kind: target}) as probe,
        pytest.raises(Refused, match=told) as refused,
    ):
        probe.wait_connected()
    assert refused.value.remedy


FEW_DESCRIPTORS = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
os.execv(sys.executable, [sys.executable, "-P", "-m", "bascule.network.probe", *sys.argv[1:]])
"""


def test_more_connections_than_the_process_may_have(direct: Line, tmp_path: Path) -> None:
    """In an outage each waits for a second; what could not be asked any more is told, and lost is what was asked."""
    ip("-n", direct.client.name, "neighbour", "add", "192.0.2.77", "lladdr", "02:00:00:00:00:77", "dev", "cable")
    recording = tmp_path / "recording"
    options = ["--namespace", direct.client.name, "--output", str(recording), "--hz", "400", "--duration", "1.5"]
    options += ["--connect", "192.0.2.77:80", "--connect-timeout", "0.2"]
    read_end, write_end = os.pipe()  # its end would be the probe's
    done = subprocess.run(
        [sys.executable, "-c", FEW_DESCRIPTORS, *options],
        stdin=read_end,
        stdout=subprocess.PIPE,
        check=True,
        timeout=PATIENCE_S,
    )
    os.close(read_end)
    os.close(write_end)
    assert b'"silent": ["connect"]' in done.stdout
    seen = outage_between(load_samples(recording)["connect"], 0, time.monotonic_ns())
    assert 180 <= seen.sent == seen.lost < 600
    assert "too many connections waited for an answer already" in seen.note


def test_an_address_that_nobody_has_yet(direct: Line, tmp_path: Path) -> None:
    """No answer to ARP is an error of the kernel's after three seconds; the probe asks on: the VM may come."""
    with start(direct, tmp_path, connect_timeout_s=4.0, icmp="192.0.2.77") as probe:
        probe.wait_connected()
        assert probe.silent == ("icmp",)
        ip("-n", direct.server.name, "address", "add", "192.0.2.77/24", "dev", "cable")
        wait_until(lambda: len(probe.samples("icmp").answer_at_ns) >= 50, "answers")
