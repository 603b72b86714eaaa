"""What the probe's loop asks of each stream, and what UDP, TCP and HTTP have in common."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod

from bascule.network.probe_log import StreamLog
from bascule.network.probe_pacer import Pacer
from bascule.network.probe_samples import PauseCause


class Stream(ABC):
    """One socket that asks on time and takes in answers; it tells its `log` all that happens. Nothing here blocks.

    `pacer` is given by the loop when it begins.
    """

    pacer: Pacer
    log: StreamLog

    @property
    @abstractmethod
    def readable(self) -> socket.socket | None:
        """The socket to wait on for answers; None when there is none now."""

    @property
    def writable(self) -> socket.socket | None:
        """The socket to wait on until it can be written: a connection in the making."""
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

    def became_writable(self) -> None:  # noqa: B027 - UDP has nothing to do here
        """The connection in the making is made, or failed."""

    def look(self, now_ns: int) -> None:  # noqa: B027 - not every kernel socket knows more
        """Some times a second: log what only the kernel knows."""

    @abstractmethod
    def close(self) -> None:
        """Close the socket."""
