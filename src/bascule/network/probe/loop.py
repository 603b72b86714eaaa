"""The probe's loop: one thread, absolute deadlines, all streams side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bascule.network.probe.ending import Ending
from bascule.network.probe.kinds.stream import Stream
from bascule.network.probe.pacer import NS_PER_S, Pacer
from bascule.network.probe.recorder import Recorder

FLUSH_EVERY_NS = 50_000_000
_LEAD_NS = 10_000_000


def run(
    streams: Sequence[Stream],
    recorder: Recorder,
    ending: Ending,
    *,
    duration_s: float | None,
    answer_timeout_s: float,
) -> None:
    """Ask until the end, then wait for the answers still outstanding, at most the answer time-out.

    Raises:
        Failed: the recording could not be written.
    """
    begin_ns = time.monotonic_ns() + _LEAD_NS
    for number, stream in enumerate(streams):
        period_ns = round(NS_PER_S / stream.log.info.hz)
        # Side by side, not all at the same moment, or each would see the others as jitter.
        stream.pacer = Pacer(stream.log.info.hz, begin_ns + period_ns * number // len(streams))
    stop_ns = None if duration_s is None else begin_ns + round(duration_s * NS_PER_S)
    flusher = _Flusher(streams, recorder)
    while not ending.is_here:
        now_ns = time.monotonic_ns()
        if stop_ns is not None and now_ns >= stop_ns:
            break
        for stream in streams:
            if now_ns >= stream.pacer.due_ns:
                stream.tick(now_ns)
        flusher.flush_when_due(now_ns)
        wake_ns = min(flusher.due_ns, *(stream.pacer.due_ns for stream in streams))
        if stop_ns is not None:
            wake_ns = min(wake_ns, stop_ns)
        _wait(streams, ending, wake_ns)
    stopped_ns = time.monotonic_ns()
    _note_missed(streams, stopped_ns if stop_ns is None else min(stopped_ns, stop_ns))
    recorder.stopped(stopped_ns)
    timeout_ns = round(answer_timeout_s * NS_PER_S)
    give_up_ns = time.monotonic_ns() + timeout_ns
    while (now_ns := time.monotonic_ns()) < give_up_ns:
        if not any(stream.log.has_unanswered(now_ns - timeout_ns) for stream in streams):
            break
        flusher.flush_when_due(now_ns)
        _wait(streams, ending, min(flusher.due_ns, give_up_ns))
    flusher.flush_now(time.monotonic_ns())


def _note_missed(streams: Sequence[Stream], end_ns: int) -> None:
    """The end may find this process put aside: what was due meanwhile was not asked, as anywhere else."""
    for stream in streams:
        if end_ns - stream.pacer.due_ns > stream.pacer.period_ns:
            stream.log.missed(stream.pacer.due_ns, end_ns)


class _Flusher:
    """Hands the samples to the recorder some times a second."""

    def __init__(self, streams: Sequence[Stream], recorder: Recorder) -> None:
        self._streams = streams
        self._recorder = recorder
        self.due_ns = 0

    def flush_when_due(self, now_ns: int) -> None:
        if now_ns >= self.due_ns:
            self.flush_now(now_ns)
            self.due_ns = now_ns + FLUSH_EVERY_NS

    def flush_now(self, now_ns: int) -> None:
        for stream in self._streams:
            stream.receive()  # what arrived until `now_ns` has now been told
            stream.look(now_ns)
        self._recorder.flush(now_ns)


def _wait(streams: Sequence[Stream], ending: Ending, until_ns: int) -> None:
    """Wait for answers until the moment `until_ns` at most, and take them in."""
    readable = {sock: stream for stream in streams if (sock := stream.readable) is not None}
    writable = {sock: stream for stream in streams if (sock := stream.writable) is not None}
    left_s = (until_ns - time.monotonic_ns()) / NS_PER_S
    ready, ready_to_write = ending.wait(list(readable), list(writable), left_s)
    for sock in ready:
        readable[sock].receive()
    for sock in ready_to_write:
        writable[sock].became_writable()
