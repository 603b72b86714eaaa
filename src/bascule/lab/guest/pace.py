"""When the next block is due, and what rate was really achieved."""

from __future__ import annotations

_DEBT_LIMIT_NS = 100_000_000
_PATIENCE_NS = 2_000_000
_WINDOW_NS = 1_000_000_000


class Pace:
    """Spreads steps of `step_bytes` evenly. It begins without a limit, for the first filling of the memory.

    A step that comes late is made up for, but at most a tenth of a second of them: after a pause the guest does not
    rush. Clients come first, but one step in 2 ms is made however many they are: the rate sinks, and is reported as
    it is, yet never to nothing.
    """

    def __init__(self, step_bytes: int, now_ns: int) -> None:
        self._step_bytes = step_bytes
        self._step_ns = 0
        self._due_ns = now_ns
        self._stepped_ns = now_ns
        self._window_start_ns = now_ns
        self._window_steps = 0
        self._achieved_mb_s = 0.0

    def limit(self, rate_mb_s: float, now_ns: int) -> None:
        """From now on no more than `rate_mb_s` (1 MB is 1,000,000 bytes)."""
        self._step_ns = int(self._step_bytes * 1000 / rate_mb_s) if rate_mb_s else 0
        self._due_ns = now_ns

    def wait_s(self, now_ns: int, clients_waiting: bool) -> float | None:
        """How long to look after clients before the next step, in seconds; None if the step is to be made now."""
        if now_ns < self._due_ns:
            return (self._due_ns - now_ns) / 1e9
        if clients_waiting and now_ns < self._stepped_ns + _PATIENCE_NS:
            return 0.0
        return None

    def stepped(self, now_ns: int) -> None:
        """Account for one step, begun at `now_ns`."""
        self._due_ns = max(self._due_ns + self._step_ns, now_ns - _DEBT_LIMIT_NS)
        self._stepped_ns = now_ns
        self._window_steps += 1
        if now_ns - self._window_start_ns >= _WINDOW_NS:
            self._achieved_mb_s = self._rate(now_ns)
            self._window_start_ns = now_ns
            self._window_steps = 0

    def achieved_mb_s(self, now_ns: int) -> float:
        """The rate over the last second that is over."""
        if now_ns - self._window_start_ns >= 2 * _WINDOW_NS:
            return self._rate(now_ns)
        return self._achieved_mb_s

    def _rate(self, now_ns: int) -> float:
        return self._window_steps * self._step_bytes * 1000 / (now_ns - self._window_start_ns)
