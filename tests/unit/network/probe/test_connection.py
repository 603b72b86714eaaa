from __future__ import annotations

from array import array

from bascule.network.probe.connection import connection_between
from bascule.network.probe.samples import Event, Samples, StreamInfo


def recording(kind: str, *events: Event) -> Samples:
    return Samples(
        StreamInfo(kind, "10.77.0.50:7", 1000.0),
        sent_at_ns=array("q", range(0, 1000, 10)),
        answer_sequence=array("I", range(100)),
        answer_at_ns=array("q", range(5, 1005, 10)),
        events=list(events),
    )


def test_the_same_since_the_start() -> None:
    seen = connection_between(recording("tcp", Event(0, "connected", {})), 100, 200)
    assert seen is not None
    assert (seen.is_unbroken, seen.established_at_ns, seen.verified_bytes) == (True, 0, 80)
    assert seen.sentence() == (
        "The TCP connection is the same since the start; 80 bytes came back verified and in order."
    )


def test_broken_and_made_anew() -> None:
    events = (
        Event(0, "connected", {}),
        Event(150, "disconnected", {"reason": "Connection reset by peer"}),
        Event(250, "connected", {}),
        Event(160, "retransmitted", {"segments": 3}),
    )
    during = connection_between(recording("tcp", *events), 100, 200)
    assert during is not None
    assert (during.is_unbroken, during.established_at_ns, during.breaks, during.retransmitted) == (False, None, 1, 3)
    assert "is broken" in during.sentence()
    assert "3 segments were sent again" in during.sentence()
    after = connection_between(recording("tcp", *events), 300, 400)
    assert after is not None
    assert (after.is_unbroken, after.reconnections, after.breaks, after.established_at_ns) == (False, 1, 0, 250)
    assert "made anew once" in after.sentence()


def test_wrong_bytes_are_shouted() -> None:
    seen = connection_between(
        recording("tcp", Event(0, "connected", {}), Event(50, "corrupt", {"expected": 4, "got": "00"})), 0, 100
    )
    assert seen is not None
    assert not seen.is_unbroken
    assert "WRONG BYTES" in seen.sentence()


def test_http_has_a_connection_and_udp_has_none() -> None:
    seen = connection_between(recording("http", Event(0, "connected", {})), 0, 100)
    assert seen is not None
    assert (seen.is_unbroken, seen.verified_bytes) == (True, None)
    assert connection_between(recording("udp"), 0, 100) is None
