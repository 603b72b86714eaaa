"""What the probe's loop asks of each stream, and what all kinds have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from bascule.network.probe.ending import Ending, Pollable
from bascule.network.probe.log import StreamLog
from bascule.network.probe.pacer import Pacer
from bascule.network.probe.samples import PauseCause

_SLOW_SENDING_NS = 500_000  # a system call that sends takes some tens of microseconds


class Stream(ABC):
    """One socket that asks on time and takes in answers; it tells its `log` all that happens. Nothing here blocks.

    `pacer` is given by the loop when it begins.
    """

    pacer: Pacer
    log: StreamLog

    @abstractmethod
    def connect(self, ending: Ending, timeout_s: float) -> bool:
        """Get ready to ask; False when the target is silent until now, or the end came first.

        Raises:
            Refused: it cannot be asked: no way to it, nothing listens, not permitted.
        """

    @property
    @abstractmethod
    def readable(self) -> Pollable | None:
        """What to wait on for answers; None when there is nothing now."""

    @property
    def writable(self) -> Pollable | None:
        """What to wait on until it can be written: a connection in the making."""
        return None

    def tick(self, now_ns: int) -> None:
        """A probe is due: send it, or say why not."""
        due_ns = self.pacer.due_ns
        cause = self.hindrance(now_ns)
        if cause is None:
            sequence = self.log.next_sequence
            self.ask(sequence)
            if self.log.next_sequence > sequence:
                # By when it was really sent: this process may have been put aside just before.
                if self.pacer.advance(self.log.last_sent_ns):
                    self.log.late(due_ns)
                done_ns = time.monotonic_ns()
                if done_ns - self.log.last_sent_ns > _SLOW_SENDING_NS:
                    self.log.slow(done_ns)
                return
            cause = self.hindrance(now_ns) or PauseCause.FULL
        self.pacer.advance(now_ns)
        self.log.hold(due_ns, cause)

    @abstractmethod
    def hindrance(self, now_ns: int) -> PauseCause | None:
        """Why no probe can be sent now; None when one can. A chance also to mend it."""

    @abstractmethod
    def ask(self, sequence: int) -> None:
        """Send probe number `sequence` and log it, or log what hindered."""

    @abstractmethod
    def receive(self) -> None:
        """Take in all that has arrived."""

    def became_writable(self) -> None:  # noqa: B027 - most have nothing to do here
        """The connection in the making is made, or failed."""

    def look(self, now_ns: int) -> None:  # noqa: B027 - not every kernel socket knows more
        """Some times a second: log what only the kernel knows."""

    @abstractmethod
    def close(self) -> None:
        """Close the socket."""
