"""How many bytes of a bulk stream came back in each hundredth of a second."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from bascule.network.probe.samples import Samples

STEP_NS = 10_000_000
MOST_STEPS = 20_000  # of one report: 200 s in steps of 10 ms; longer windows get steps of a multiple of that
NS_PER_S = 1e9
NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True)
class Throughput:
    """The bytes that came back, verified, in each step of a window; the last step may be cut short by its end.

    `start_s` is the first step's begin, from the origin of the outage; `total_bytes` is the sum.
    """

    start_s: float
    step_ms: float
    bytes: tuple[int, ...]
    total_bytes: int


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
    return Throughput((start_ns - origin_ns) / NS_PER_S, step_ns / NS_PER_MS, tuple(found), sum(found))
