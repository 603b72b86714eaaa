from __future__ import annotations

from array import array

from bascule.network.outage import outage_between
from bascule.network.probe.connection import connection_between
from bascule.network.probe.samples import Event, Samples, StreamInfo
from bascule.network.probe.throughput import throughput_between

MS = 1_000_000
S = 1000 * MS


def stream(readings: list[tuple[int, int]], kind: str = "bulk") -> Samples:
    """Two pieces, sent at 1 s: the first is whole with the second reading, the other one with the last."""
    return Samples(
        StreamInfo(kind, "10.77.0.50:7", 1000.0),
        sent_at_ns=array("q", [S, S]),
        answer_sequence=array("I", [0, 1]),
        answer_at_ns=array("q", [readings[1][0], readings[-1][0]]),
        arrived_at_ns=array("q", [at for at, _ in readings]),
        arrived_bytes=array("I", [size for _, size in readings]),
        events=[Event(S, "connected", {}), Event(S + 30 * MS, "retransmitted", {"segments": 3})],
        recorded_until_ns=9 * S,
        stopped_at_ns=2 * S,
    )


READINGS = [(S + 1 * MS, 100), (S + 9 * MS, 20), (S + 10 * MS, 3), (S + 48 * MS, 4000)]


def test_bytes_fall_into_the_step_of_their_arrival() -> None:
    seen = throughput_between(stream(READINGS), S, S + 50 * MS, S + 20 * MS)
    assert seen is not None
    assert (seen.start_s, seen.step_ms, seen.bytes, seen.total_bytes) == (-0.02, 10.0, (120, 3, 0, 0, 4000), 4123)


def test_windows_side_by_side_add_up() -> None:
    recording = stream(READINGS)
    parts = [throughput_between(recording, S + at * MS, S + (at + 7) * MS, S) for at in range(0, 49, 7)]
    assert sum(part.total_bytes for part in parts if part) == 4123


def test_a_long_window_has_longer_steps_and_loses_no_byte() -> None:
    seen = throughput_between(stream(READINGS), S, S + 50 * MS, S, most_steps=2)
    assert seen is not None
    assert (seen.step_ms, seen.bytes) == (30.0, (123, 4000))


def test_other_kinds_have_none() -> None:
    assert throughput_between(stream(READINGS, "tcp"), S, S + 50 * MS, S) is None
    assert outage_between(stream(READINGS, "tcp"), S, S + 50 * MS).to_dict()["throughput"] is None


def test_any_byte_ends_a_stall_not_only_a_whole_piece() -> None:
    seen = outage_between(stream(READINGS), S, S + 50 * MS)
    assert (seen.sent, seen.lost) == (2, 0)
    assert (seen.longest_silence_ms, seen.silence_start_s) == (38.0, 0.01)
    written = seen.to_dict()["throughput"]
    assert (written["bytes"], written["sent_again"]) == ([120, 3, 0, 0, 4000], [[0.03, 3]])


def test_every_byte_is_a_verified_one() -> None:
    seen = connection_between(stream(READINGS), S, S + 48 * MS)
    assert seen is not None
    assert (seen.is_unbroken, seen.verified_bytes) == (True, 123)
