"""The probe across real links: what it counts is what was really done to its frames.

Three namespaces: the probe's, the echo services', and between them one in which this test forwards every frame by hand,
so that it can drop, copy and hold back the ones it chooses; or a link that is taken down.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from tests.lab.probe_line import GREETING, PATIENCE_S, PORT, SERVER, Line, Relay, Rules, Service, build_line, wait_until

from bascule.network.outage import outage_between
from bascule.network.probe.samples import Samples
from bascule.network.probe.session import ProbeSession

pytestmark = pytest.mark.lab

MS = 1_000_000
S = 1000 * MS


@pytest.fixture
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    """Parametrised by "relay" or "direct"."""
    with build_line(relay=request.param == "relay") as built:
        yield built


def sent_at_least(probe: ProbeSession, kind: str, count: int) -> Samples:
    wait_until(lambda: len(probe.samples(kind).sent_at_ns) >= count, f"{count} probes by {kind}")
    return probe.samples(kind)


def answers_received(line: Line, service: Service) -> int:
    """How many answers have reached the probe's machine. (An answer may be under way when a link is cut.)"""
    return line.client.datagrams_received() - service.answered.count(GREETING)


@pytest.mark.parametrize("line", ["relay"], indirect=True)
def test_the_count_is_what_was_done(line: Line, tmp_path: Path) -> None:
    assert line.middle is not None
    requests = Rules(drop=frozenset(range(100, 150)), copies={300: 1, 310: 3}, hold_until={400: 403})
    answers = Rules(
        drop=frozenset({200, 201, 205}),
        copies={320: 2},
        hold_until={500: 503, 501: 503, 502: 503, 600: 650},
    )
    relay = Relay(line.middle, ("near", "far"), requests, answers)
    try:
        with (
            Service(line.server) as service,
            ProbeSession.start(
                tmp_path / "recording", namespace=line.client.name, udp=f"{SERVER}:{PORT}", hz=1000
            ) as probe,
        ):
            probe.wait_connected()
            assert not probe.silent
            sent_at_least(probe, "udp", 800)
            probe.stop()
            samples = probe.samples("udp")
            seen = outage_between(samples, 0, time.monotonic_ns(), origin_ns=0)
    finally:
        relay.end()

    assert seen.sent == len(samples.sent_at_ns) >= 800
    assert seen.lost == 50 + 3
    assert seen.duplicated == (1 + 3) + 2
    # A copy of a request overtakes nothing. 400 was overtaken on the way there, 500 to 502 and 600 on the way back; the
    # three went out in their own order after 503, so each of them was overtaken by it.
    assert seen.reordered == 1 + 3 + 1
    assert {at for at, rtt in seen.samples if rtt is None} == {
        round(samples.sent_at_ns[number] / 1e9, 6) for number in (*range(100, 150), 200, 201, 205)
    }
    before = max(place for place, number in enumerate(samples.answer_sequence) if number < 100)
    gap_ns = samples.answer_at_ns[before + 1] - samples.answer_at_ns[before]
    assert gap_ns > samples.sent_at_ns[149] - samples.answer_at_ns[before]
    assert seen.longest_silence_ms is not None
    assert seen.longest_silence_ms >= round(gap_ns / MS, 4)
    assert len(service.answered) - service.answered.count(GREETING) == seen.sent - 50 + 1 + 3


@pytest.mark.parametrize("line", ["direct"], indirect=True)
def test_a_link_that_is_cut(line: Line, tmp_path: Path) -> None:
    """UDP loses what the service did not get; TCP loses nothing, keeps its connection and each byte in its place."""
    begin = time.monotonic_ns()
    with (
        Service(line.server) as service,
        ProbeSession.start(
            tmp_path / "recording",
            namespace=line.client.name,
            udp=f"{SERVER}:{PORT}",
            tcp=f"{SERVER}:{PORT}",
            hz=500,
        ) as probe,
    ):
        probe.wait_connected()
        before = len(sent_at_least(probe, "udp", 100).sent_at_ns)
        line.server.link("cable", "down")
        cut_ns = time.monotonic_ns()
        sent_at_least(probe, "udp", before + 150)
        mended_ns = time.monotonic_ns()
        line.server.link("cable", "up")
        sent_at_least(probe, "udp", len(probe.samples("udp").sent_at_ns) + 100)
        mark = len(probe.samples("tcp").sent_at_ns)
        wait_until(lambda: len(probe.samples("tcp").answer_at_ns) > mark, "the TCP stream to catch up")
        probe.stop(timeout_s=PATIENCE_S)
        end = time.monotonic_ns()
        udp, tcp = (probe.outage(kind, begin, end) for kind in ("udp", "tcp"))
        stream = probe.connection("tcp", begin, end)

    assert udp.lost == udp.sent - answers_received(line, service)
    assert udp.lost >= udp.sent - len(set(service.answered) - {GREETING}) > 0
    assert udp.duplicated == 0  # what waited for ARP when the link came back may well be overtaken
    for one in (udp, tcp):
        assert one.longest_silence_ms is not None
        assert one.longest_silence_ms >= (mended_ns - cut_ns) / MS
    assert (tcp.lost, tcp.duplicated, tcp.reordered) == (0, 0, 0)
    assert stream is not None
    assert stream.is_unbroken
    assert stream.verified_bytes == 8 * tcp.sent


@pytest.mark.parametrize("line", ["direct"], indirect=True)
def test_a_send_that_the_own_kernel_refuses_is_lost(line: Line, tmp_path: Path) -> None:
    with (
        Service(line.server) as service,
        ProbeSession.start(tmp_path / "recording", namespace=line.client.name, udp=f"{SERVER}:{PORT}", hz=500) as probe,
    ):
        probe.wait_connected()
        before = len(sent_at_least(probe, "udp", 50).sent_at_ns)
        line.client.link("cable", "down")
        sent_at_least(probe, "udp", before + 100)
        line.client.link("cable", "up")
        sent_at_least(probe, "udp", len(probe.samples("udp").sent_at_ns) + 50)
        probe.stop()
        seen = outage_between(probe.samples("udp"), 0, time.monotonic_ns())
    assert seen.lost == seen.sent - answers_received(line, service)
    assert seen.lost >= seen.sent - len(set(service.answered) - {GREETING}) > 0
    assert "could not leave this machine (Network is unreachable)" in seen.note


@pytest.mark.parametrize("line", ["direct"], indirect=True)
def test_ten_thousand_a_second(line: Line, tmp_path: Path) -> None:
    """However busy the machine: each moment was used, or is in a recorded gap, and what was answered was counted."""
    with (
        Service(line.server) as service,
        ProbeSession.start(
            tmp_path / "recording", namespace=line.client.name, udp=f"{SERVER}:{PORT}", hz=10_000, duration_s=1.0
        ) as probe,
    ):
        probe.wait_connected()
        assert probe.wait_ended(PATIENCE_S)
        samples = probe.samples("udp")
        assert samples.stopped_at_ns is not None
        seen = outage_between(samples, samples.sent_at_ns[0], samples.stopped_at_ns)
    gaps = samples.own_gaps(0, samples.stopped_at_ns + S)
    for before, after in pairwise(samples.sent_at_ns):
        if after - before > 2 * S // 10_000:
            assert any(begin < after and end > before for begin, end in gaps), (before, after)
    assert seen.duplicated == 0
    assert seen.lost == seen.sent - answers_received(line, service)
