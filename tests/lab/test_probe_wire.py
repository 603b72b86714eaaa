"""The probe's figures against a capture of the wire: the same frames, counted and timed by somebody else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.lab import wire
from tests.lab.probe_line import (
    PORT,
    SERVER,
    SERVER_V6,
    ArpNumbers,
    Numbers,
    Relay,
    Rules,
    Service,
    SynNumbers,
    build_line,
    wait_until,
)
from tests.lab.wire import Wire

from bascule.network.outage import outage_between
from bascule.network.probe.session import ProbeSession

pytestmark = pytest.mark.lab

# Both clocks of the probe's machine are read at once, within 20 us; the rest is for a machine that is busy meanwhile.
CLOCKS_MS = 1.0


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("icmp", SERVER),
        ("icmp", SERVER_V6),
        ("udp", f"{SERVER}:{PORT}"),
        ("udp", f"[{SERVER_V6}]:{PORT}"),
        ("arp", SERVER),
        ("connect", f"{SERVER}:{PORT}"),
        ("connect", f"[{SERVER_V6}]:{PORT}"),
    ],
)
def test_the_wire_tells_the_same(tmp_path: Path, kind: str, target: str) -> None:
    """Frames are lost, copied and held back; every probe and every answer is found on both sides of the account."""
    one_by_one = kind in ("arp", "connect")
    requests = Rules(drop=frozenset(range(60, 80)), copies={} if one_by_one else {100: 1, 110: 2})
    answers = Rules(
        drop=frozenset({130, 131}),
        copies={} if one_by_one else {140: 3},
        hold_until={} if one_by_one else {150: 155, 151: 153},
    )

    def numbers() -> Numbers:
        return {"arp": ArpNumbers, "connect": SynNumbers}.get(kind, Numbers)()

    with build_line(relay=True) as line:
        assert line.middle is not None
        with (
            Service(line.server, SERVER_V6 if SERVER_V6 in target else SERVER),
            Relay(line.middle, ("near", "far"), requests, answers, numbers()),
            Wire(line.client, "cable") as capture,
            ProbeSession.start(tmp_path / "recording", namespace=line.client.name, hz=200, **{kind: target}) as probe,
        ):
            probe.wait_connected()
            wait_until(lambda: len(probe.samples(kind).sent_at_ns) >= 200, "200 probes")
            probe.stop()
            frames = capture.frames()
        samples = probe.samples(kind)
    both = numbers()  # those of connections are known by their requests
    sent, came = wire.sort_out(frames, both, both)
    seen = outage_between(samples, 0, time.monotonic_ns())
    if kind == "connect":  # the kernel asks again what has no answer after a second, and that answer is too late
        lost = {*range(60, 80), 130, 131}
        came = [answer for answer in came if answer.number not in lost]
    assert (seen.sent, seen.lost, seen.duplicated, seen.reordered) == wire.counts(sent, came)
    assert seen.lost == 22
    assert sorted({request.number for request in sent}) == list(range(len(samples.sent_at_ns)))
    if kind != "arp":  # whose answers do not say which question they answer
        assert [answer.number for answer in came] == list(samples.answer_sequence)
    if kind != "connect":  # whose arrival is that of its first SYN plus the kernel's own measurement
        assert seen.longest_silence_ms is not None
        assert abs(seen.longest_silence_ms - wire.longest_gap_ms(came)) < CLOCKS_MS
