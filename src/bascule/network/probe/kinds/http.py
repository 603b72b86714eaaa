"""HTTP GET over one kept connection, one request at a time, as a browser or a load balancer's check would.

A request that is due while the last one waits for its answer is not sent: what a client of this kind would ask is then
never asked, and the pause is recorded as waiting.
"""

from __future__ import annotations

import time

from bascule.network.probe.kinds.connected import ConnectedStream
from bascule.network.probe.kinds.http_answer import AnswerReader, NotHttpError
from bascule.network.probe.log import StreamLog
from bascule.network.probe.samples import PauseCause
from bascule.network.probe.target import Target

_OK = 200


class HttpGet(ConnectedStream):
    """Asks for one page again and again."""

    def __init__(self, target: Target, log: StreamLog) -> None:
        super().__init__(target, log)
        self._request = (
            f"GET {target.path} HTTP/1.1\r\nHost: {target.host}\r\nUser-Agent: bascule-probe\r\n\r\n".encode()
        )
        self._asked: int | None = None
        self._reader = AnswerReader()

    def begin(self) -> None:
        """A new connection: what was asked on the last one is never answered."""
        self._asked = None
        self._reader = AnswerReader()

    def hindrance(self, now_ns: int) -> PauseCause | None:
        """As for any connection, or an answer that is still to come."""
        cause = super().hindrance(now_ns)
        if cause is None and self._asked is not None:
            return PauseCause.WAITING
        return cause

    def ask(self, sequence: int) -> None:
        """Send one request."""
        at_ns = time.monotonic_ns()
        if self._send(self._request):
            self.log.sent(at_ns)
            self._asked = sequence

    def take(self, data: bytes, at_ns: int) -> None:
        """Look whether the answer is whole."""
        try:
            statuses = self._reader.feed(data)
        except NotHttpError as error:
            self._break(f"it does not speak HTTP/1.1 as a probe needs it: {error}")
            return
        for status in statuses:
            if self._asked is None:
                self._break("it answered what was not asked")
                return
            self.log.answered(self._asked, at_ns)
            self._asked = None
            if status != _OK:
                self.log.count(at_ns, "bad-status", status=status)
