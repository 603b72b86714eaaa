"""What one probe stream saw: when it sent, what came back, and why it did not send.

Columns instead of objects: an hour at 1 kHz is 3.6 million probes and takes 72 MB (8 bytes for each probe, 12 for each
answer). All times are nanoseconds of CLOCK_MONOTONIC. That clock is the machine's: one reading means the same in every
process and network namespace of one boot (a *time* namespace would shift it; nothing here uses one), so that a lab
may cut a window out of a client's samples by its own `time.monotonic_ns()`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class PauseCause(IntEnum):
    """Why a probe that was due was not sent."""

    LATE = 1  # our own doing: the probe was not scheduled in time, and does not send in a burst what it missed
    WAITING = 2  # one question at a time (HTTP): the answer to the last one is still outstanding
    FULL = 3  # the kernel takes no more bytes for this connection: nothing is acknowledged
    NO_CONNECTION = 4  # the connection broke and is not there again
    SLOW = 5  # our own doing: one was sent, but the probe was put aside while it sent it
    CROWDED = 6  # as many connections are open as this process may have: too many wait for an answer


OWN_DOING = (PauseCause.LATE, PauseCause.SLOW)
NAMES = {
    "icmp": "ICMP echo",
    "arp": "ARP",
    "udp": "UDP echo",
    "tcp": "TCP echo",
    "bulk": "bulk TCP",
    "connect": "TCP connect",
    "http": "HTTP GET",
}
NUMBERED = ("icmp", "udp")  # their answers say which question they answer, and may come in any order


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a stream asks whom, and how often. `kind` is a key of `NAMES`, `target` an address, with its port if any."""

    kind: str
    target: str
    hz: float

    @property
    def name(self) -> str:
        """The kind for people: `UDP echo`."""
        return NAMES.get(self.kind, self.kind)


@dataclass(frozen=True, slots=True)
class Event:
    """Something rare: a connection made or broken, bytes that were wrong, a send that the kernel refused."""

    at_ns: int
    what: str
    facts: Mapping[str, Any]


@dataclass(slots=True)
class Samples:
    """All that is known of one stream.

    `sent_at_ns[n]` is when probe number n was sent (never decreasing). Answers stand in the order in which they
    arrived, duplicates included: `answer_sequence[i]` says to which probe, `answer_at_ns[i]` when (never decreasing).
    `arrived_at_ns` and `arrived_bytes` are the readings of a bulk stream, whose answers may come in many; empty for
    other kinds.
    A pause is the time from the first moment at which a probe was due and not sent until one was sent. Pauses stand
    in the order of their ends.
    Up to `recorded_until_ns` nothing is missing; later samples may be incomplete. After `stopped_at_ns` nothing more
    was asked (None: it still asks).
    """

    stream: StreamInfo
    sent_at_ns: array[int] = field(default_factory=lambda: array("q"))
    answer_sequence: array[int] = field(default_factory=lambda: array("I"))
    answer_at_ns: array[int] = field(default_factory=lambda: array("q"))
    arrived_at_ns: array[int] = field(default_factory=lambda: array("q"))
    arrived_bytes: array[int] = field(default_factory=lambda: array("I"))
    pause_begin_ns: array[int] = field(default_factory=lambda: array("q"))
    pause_end_ns: array[int] = field(default_factory=lambda: array("q"))
    pause_cause: array[int] = field(default_factory=lambda: array("B"))
    events: list[Event] = field(default_factory=list)
    recorded_until_ns: int = 0
    stopped_at_ns: int | None = None

    def sent_in(self, start_ns: int, end_ns: int) -> range:
        """The numbers of the probes sent in [start, end)."""
        return range(bisect_left(self.sent_at_ns, start_ns), bisect_left(self.sent_at_ns, end_ns))

    def pauses(self, cause: PauseCause, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        """The pauses of one cause that overlap [start, end), as (begin, end), cut to it."""
        first = bisect_left(self.pause_end_ns, start_ns)
        found = []
        for begin, end, why in zip(
            self.pause_begin_ns[first:], self.pause_end_ns[first:], self.pause_cause[first:], strict=True
        ):
            if why == cause and begin < end_ns and end > start_ns:  # one kind of pause may lie within another
                found.append((max(begin, start_ns), min(end, end_ns)))
        return found

    @property
    def heard_at_ns(self) -> array[int]:
        """When anything arrived that ends a silence: an answer, or of a bulk stream any byte."""
        return self.arrived_at_ns if self.stream.kind == "bulk" else self.answer_at_ns

    def own_gaps(self, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
        """The times in [start, end) in which this machine kept the probe from its work, as (begin, end), apart."""
        found = sorted(pause for cause in OWN_DOING for pause in self.pauses(cause, start_ns, end_ns))
        merged: list[tuple[int, int]] = []
        for begin, end in found:
            if merged and begin <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((begin, end))
        return merged

    def events_in(self, what: str, start_ns: int, end_ns: int) -> list[Event]:
        """The events of one sort in [start, end)."""
        return [event for event in self.events if event.what == what and start_ns <= event.at_ns < end_ns]
