"""What a client's bulk TCP stream felt, as it stands in a report, and how it is told and drawn in lines of text.

    Bulk TCP  no byte came for 38 ms at worst, beside a blackout of 14.2 ms
              bytes per 10 ms, the highest 256 KiB, from 1.88 s to 2.33 s:
              ▅▆▅▆▆▅▆▆▅▆▅▆▆▅▆▆▅▆▅▆▆▅▆▆▅   ▁▂▄▅▆▆▅▆▆▅▆▅▆▆▅▆
                                       == blackout

*Stall*: the longest time in which no byte came back. Where there is no blackout, the picture is of the stall.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bascule.report import reading, words

LEVELS = " ▁▂▃▄▅▆▇█"
BEFORE = 25  # steps of the line picture before the blackout, and after it at least as many


@dataclass(frozen=True, slots=True)
class Throughput:
    """The bytes of a stream that came back in each step, the first of which begins at `start_s` of the move."""

    start_s: float
    step_ms: float
    bytes: tuple[int, ...]
    total_bytes: int

    @property
    def end_s(self) -> float:
        """Where the last step ends."""
        return self.start_s + len(self.bytes) * self.step_ms / 1e3


def read_throughput(data: Mapping[str, Any]) -> Throughput | None:
    """Read the part of an outage's JSON; None where nothing can be made of it."""
    written = data.get("bytes")
    step_ms = reading.amount(data, "step_ms")
    if not isinstance(written, list | tuple) or not written or step_ms <= 0:
        return None
    found = tuple(max(0, int(reading.finite(one) or 0)) for one in written)
    return Throughput(reading.amount(data, "start_s"), step_ms, found, reading.count(data, "total_bytes"))


def level(share: float) -> str:
    """One character for a share between 0 and 1; anything above 0 is seen."""
    if share <= 0:
        return LEVELS[0]
    return LEVELS[min(len(LEVELS) - 1, 1 + int(share * (len(LEVELS) - 1)))]


def amount(seen: Throughput) -> str:
    """Tell how much came back, in what time: 31.4 MiB came back in 3.41 s (9.2 MiB/s)."""
    took_s = seen.end_s - seen.start_s
    rate = words.rate(seen.total_bytes / took_s)
    return f"{words.memory(seen.total_bytes)} came back in {words.seconds(took_s)} ({rate})"


def stall(longest_silence_ms: float | None, blackout_ms: float | None) -> str:
    """Tell the longest time without a byte beside the blackout; empty where it is not known."""
    if longest_silence_ms is None:
        return ""
    beside = f", beside a blackout of {words.milliseconds(blackout_ms)}" if blackout_ms is not None else ""
    return f"no byte came for {words.milliseconds(longest_silence_ms)} at worst{beside}"


def line_picture(
    seen: Throughput, dark: tuple[float, float] | None, width: int, *, name: str = "blackout"
) -> list[str]:
    """Draw the steps around `dark`, the blackout's (begin, end) in s of the move, in `width` columns: three lines.

    The first says what a column is; each column is one step or, where the blackout is long, several. The last is left
    out where there was no blackout; the whole window is drawn then.
    """
    step_s = seen.step_ms / 1e3
    first, last = 0, len(seen.bytes)
    if dark is not None:
        stop, run = ((at_s - seen.start_s) / step_s for at_s in dark)
        first = max(0, min(last - 1, int(stop) - BEFORE))
        last = max(first + 1, min(last, max(int(run) + 1 + BEFORE, first + width)))
    each = -(-(last - first) // width)
    columns = [sum(seen.bytes[at : min(at + each, last)]) for at in range(first, last, each)]
    most = max(columns)
    span = f"from {seen.start_s + first * step_s:.2f} s to {seen.start_s + last * step_s:.2f} s"
    lines = [f"bytes per {words.milliseconds(each * seen.step_ms)}, the highest {words.memory(most)}, {span}:"]
    lines.append("".join(level(one / most if most else 0.0) for one in columns).rstrip() or "(nothing)")
    if dark is not None:
        begin, end = (min(len(columns) - 1, max(0, int((at - first) / each))) for at in (stop, run))
        lines.append(" " * begin + "=" * (end + 1 - begin) + f" {name}")
    return lines
