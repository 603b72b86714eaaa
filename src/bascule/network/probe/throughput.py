"""How many bytes of a bulk stream came back in each hundredth of a second."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import asdict, dataclass
from typing import Any

from bascule.network.probe.samples import Samples

STEP_NS = 10_000_000
MOST_STEPS = 20_000  # of one report: 200 s in steps of 10 ms; longer windows get steps of a multiple of that
NS_PER_S = 1e9
NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class Throughput:
    """The bytes that came back, verified, in each step of a window; the last step may be cut short by its end.

    `start_s` is the first step's begin, from the origin of the outage; `total_bytes` is the sum. `sent_again` are
    segments that this side's kernel had to send again, as (when that was noticed in s, how many): it is asked 20 times
    a second.
    """

    start_s: float
    step_ms: float
    bytes: tuple[int, ...]
    total_bytes: int
    sent_again: tuple[tuple[float, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The record as it stands in an outage's JSON."""
        pairs = [list(pair) for pair in self.sent_again]
        return asdict(self) | {"bytes": list(self.bytes), "sent_again": pairs}


def throughput_between(
    samples: Samples, start_ns: int, end_ns: int, origin_ns: int, *, most_steps: int = MOST_STEPS
) -> Throughput | None:
    """Add up the window [start, end) of CLOCK_MONOTONIC by the moments of arrival; None for other kinds than bulk.

    Steps lie on a grid from `start_ns` on. What this process read late has the arrival of its last byte.
    """
    if samples.stream.kind != "bulk":
        return None
    steps = max(1, -(-(end_ns - start_ns) // STEP_NS))
    step_ns = STEP_NS * -(-steps // most_steps)
    found = [0] * max(1, -(-(end_ns - start_ns) // step_ns))
    first, last = bisect_left(samples.arrived_at_ns, start_ns), bisect_left(samples.arrived_at_ns, end_ns)
    for at_ns, size in zip(samples.arrived_at_ns[first:last], samples.arrived_bytes[first:last], strict=True):
        found[(at_ns - start_ns) // step_ns] += size
    again = tuple(
        (round((event.at_ns - origin_ns) / NS_PER_S, 6), int(event.facts["segments"]))
        for event in samples.events_in("retransmitted", start_ns, end_ns)
    )
    return Throughput((start_ns - origin_ns) / NS_PER_S, step_ns / NS_PER_MS, tuple(found), sum(found), again)
