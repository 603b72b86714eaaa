"""What became of a stream's one connection: TCP echo and HTTP hold on to it, and a break is what users would feel.

The TCP stream's content is verified: every byte that comes back is compared with the one that was sent at that place,
so that an answer that is recorded stands for `WORD_BYTES` right bytes in their order.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from bascule.network.probe.samples import Samples

WORD_BYTES = 8  # one probe on the TCP stream: its number, big endian


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection as seen until the end of a window.

    `established_at_ns` is when the one in use at the end of the window was made (None: there is none). `reconnections`
    and `corrupt` (answers with a wrong byte in them) count since the probe began, `breaks` those in the window.
    `verified_bytes` came back in the window, in order and right; None where content is not verified (HTTP).
    `retransmitted` segments of this side, in the window; each may be by a time-out or a fast retransmission.
    """

    kind: str
    established_at_ns: int | None
    reconnections: int
    breaks: int
    verified_bytes: int | None
    corrupt: int
    retransmitted: int

    @property
    def is_unbroken(self) -> bool:
        """True when the connection is the one made at the start, and every byte was right and in order."""
        return self.established_at_ns is not None and not (self.reconnections or self.breaks or self.corrupt)

    def sentence(self) -> str:
        """All of it for people."""
        parts = [f"The {'HTTP' if self.kind == 'http' else 'TCP'} connection "]
        if self.is_unbroken:
            parts.append("is the same since the start")
        elif self.established_at_ns is None:
            parts.append("is broken")
        else:
            times = "once" if self.reconnections == 1 else f"{self.reconnections} times"
            parts.append(f"was made anew {times}" if self.reconnections else "is the same since the start")
        if self.corrupt:
            parts.append("; WRONG BYTES came back")
        if self.verified_bytes is not None:
            parts.append(f"; {self.verified_bytes:,} bytes came back verified and in order")
        if self.retransmitted:
            parts.append(f"; {self.retransmitted} segments were sent again")
        return "".join(parts) + "."


def connection_between(samples: Samples, start_ns: int, end_ns: int) -> Connection | None:
    """What became of the connection until `end_ns`, and what came over it since `start_ns`; None if it holds none."""
    kind = samples.stream.kind
    if kind not in ("tcp", "bulk", "http"):
        return None
    made = samples.events_in("connected", 0, end_ns)
    broken = samples.events_in("disconnected", 0, end_ns)
    return Connection(
        kind=kind,
        established_at_ns=made[-1].at_ns if len(made) > len(broken) else None,
        reconnections=max(0, len(made) - 1),
        breaks=sum(1 for event in broken if event.at_ns >= start_ns),
        verified_bytes=None if kind == "http" else _verified_bytes(samples, start_ns, end_ns),
        corrupt=len(samples.events_in("corrupt", 0, end_ns)),
        retransmitted=sum(
            int(event.facts["segments"]) for event in samples.events_in("retransmitted", start_ns, end_ns)
        ),
    )


def _verified_bytes(samples: Samples, start_ns: int, end_ns: int) -> int:
    at = samples.heard_at_ns
    first, last = bisect_left(at, start_ns), bisect_left(at, end_ns)
    return sum(samples.arrived_bytes[first:last]) if samples.stream.kind == "bulk" else (last - first) * WORD_BYTES
