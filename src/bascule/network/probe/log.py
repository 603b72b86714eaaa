"""What one stream tells while it runs, gathered in memory between two flushes of the recording."""

from __future__ import annotations

from array import array
from typing import Any

from bascule.network.probe.format import Kind, block, event_block
from bascule.network.probe.samples import Event, PauseCause, StreamInfo

_REMEMBERED = 1 << 16  # probes whose sending time and answer are kept at hand: 65 s at 1 kHz


class StreamLog:
    """What one stream did since the last flush, and as much of the past as it needs to judge an answer."""

    def __init__(self, number: int, info: StreamInfo) -> None:
        self.info = info
        self._number = number
        self._sent_at_ns = array("q")
        self._answer_sequence = array("I")
        self._answer_at_ns = array("q")
        self._arrived = (array("q"), array("I"))
        self._pauses = (array("q"), array("q"), array("B"))
        self._events: list[Event] = []
        self._counted: dict[tuple[str, str], Event] = {}
        self._recent_sent_ns = array("q", bytes(8 * _REMEMBERED))
        self._is_unanswered = bytearray(_REMEMBERED)
        self._last_answer_ns = 0
        self._last_pause_end_ns = 0
        self._held_since_ns = 0
        self._held_for = PauseCause.WAITING
        self.next_sequence = 0
        self.last_sent_ns = 0
        self.is_stopped = False

    def sent(self, at_ns: int) -> None:
        """Number `next_sequence` was sent."""
        slot = self.next_sequence % _REMEMBERED
        self._recent_sent_ns[slot] = at_ns
        self._is_unanswered[slot] = 1
        self._sent_at_ns.append(at_ns)
        self.next_sequence += 1
        self.last_sent_ns = at_ns
        if self._held_since_ns:
            self._pause(self._held_since_ns, at_ns, self._held_for)
            self._held_since_ns = 0

    def answered(self, sequence: int, at_ns: int) -> None:
        """An answer to number `sequence` arrived. Neither goes back behind the last one nor before its sending.

        Arrival times are converted from another clock (see `probe.arrival`): order is certain, the last few
        hundred nanoseconds are not.
        """
        slot = sequence % _REMEMBERED
        if self.next_sequence - sequence <= _REMEMBERED:
            at_ns = max(at_ns, self._recent_sent_ns[slot])
            self._is_unanswered[slot] = 0
        self._last_answer_ns = at_ns = max(at_ns, self._last_answer_ns)
        self._answer_sequence.append(sequence)
        self._answer_at_ns.append(at_ns)

    def arrived(self, size: int, at_ns: int) -> None:
        """So many bytes of a bulk stream arrived. Comes before the answers that are whole by them."""
        self._last_answer_ns = at_ns = max(at_ns, self._last_answer_ns)
        for column, value in zip(self._arrived, (at_ns, size), strict=True):
            column.append(value)

    def late(self, due_ns: int) -> None:
        """The last probe was due at `due_ns` already; others that were due since are not sent."""
        self._pause(due_ns, self.last_sent_ns, PauseCause.LATE)

    def missed(self, due_ns: int, end_ns: int) -> None:
        """From `due_ns` on probes were due, and none will be sent any more: the end came at `end_ns`."""
        # A pause that goes on says why. One that ends later (a system call) covers it; pauses stand in order of ends.
        if not self._held_since_ns and end_ns > self._last_pause_end_ns:
            self._pause(due_ns, end_ns, PauseCause.LATE)

    def slow(self, done_ns: int) -> None:
        """The last probe was only known to be sent at `done_ns`: this process was put aside while it sent it.

        Comes after `late`, if at all.
        """
        self._pause(self.last_sent_ns, done_ns, PauseCause.SLOW)

    def hold(self, due_ns: int, cause: PauseCause) -> None:
        """A probe was due and could not be sent. The pause ends with the next `sent`."""
        if self._held_since_ns and self._held_for is not cause:
            self._pause(self._held_since_ns, max(due_ns, self._held_since_ns), self._held_for)
            self._held_since_ns = 0
        self._held_since_ns = self._held_since_ns or due_ns
        self._held_for = cause

    def stopped(self, at_ns: int) -> None:
        """Nothing more will be sent: what was held is held no longer."""
        self.is_stopped = True
        if self._held_since_ns:
            self._pause(self._held_since_ns, at_ns, self._held_for)
            self._held_since_ns = 0

    def event(self, at_ns: int, what: str, **facts: Any) -> None:
        """Something rare happened."""
        self._events.append(Event(at_ns, what, facts))

    def count(self, at_ns: int, what: str, **facts: Any) -> None:
        """Something happened that may happen a thousand times a second: told once a flush, with its `count`."""
        key = what, repr(facts)
        known = self._counted.get(key)
        self._counted[key] = (
            Event(known.at_ns, what, facts | {"count": known.facts["count"] + 1})
            if known
            else Event(at_ns, what, facts | {"count": 1})
        )

    def refused(self, at_ns: int, sequence: int, number: int) -> None:
        """The kernel did not take number `sequence` (already `sent`), with this errno."""
        key = "send-refused", str(number)
        known = self._counted.get(key)
        if known and known.facts["last"] == sequence - 1:
            self._counted[key] = Event(known.at_ns, known.what, {**known.facts, "last": sequence})
            return
        if known:
            self._events.append(known)
        self._counted[key] = Event(at_ns, "send-refused", {"errno": number, "first": sequence, "last": sequence})

    def has_unanswered(self, since_ns: int) -> bool:
        """Tell whether a probe sent after `since_ns` has no answer yet."""
        for sequence in range(self.next_sequence - 1, max(-1, self.next_sequence - _REMEMBERED - 1), -1):
            slot = sequence % _REMEMBERED
            if self._recent_sent_ns[slot] <= since_ns:
                return False
            if self._is_unanswered[slot]:
                return True
        return False

    def take(self, now_ns: int) -> bytes:
        """Return the blocks of what was gathered, and forget it. A pause that goes on is written up to `now_ns`."""
        if self._held_since_ns:
            self._pause(self._held_since_ns, now_ns, self._held_for)
            self._held_since_ns = now_ns
        written = []
        for kind, columns in (
            (Kind.SENT, (self._sent_at_ns,)),
            (Kind.ANSWERS, (self._answer_sequence, self._answer_at_ns)),
            (Kind.ARRIVED, self._arrived),
            (Kind.PAUSES, self._pauses),
        ):
            if columns[0]:
                written.append(block(kind, self._number, *columns))
                for column in columns:
                    del column[:]
        written += [event_block(self._number, event) for event in (*self._events, *self._counted.values())]
        self._events.clear()
        self._counted.clear()
        return b"".join(written)

    def _pause(self, begin_ns: int, end_ns: int, cause: PauseCause) -> None:
        for column, value in zip(self._pauses, (begin_ns, end_ns, cause), strict=True):
            column.append(value)
        self._last_pause_end_ns = end_ns
