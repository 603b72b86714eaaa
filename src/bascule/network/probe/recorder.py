"""The writer of a recording: a thread of its own.

A disk that is busy with a VM's saved memory may hold a `write` up for longer than the outage that is to be
measured. So the loop that sends never writes: it hands bytes to a thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from bascule.errors import Failed, Refused
from bascule.network.probe.format import ALL_STREAMS, Kind, block, first_line
from bascule.network.probe.log import StreamLog


class Recorder:
    """The recording of several streams: `flush` now and then, `close` at the end."""

    def __init__(self, path: Path, logs: Sequence[StreamLog], facts: Mapping[str, Any]) -> None:
        """Begin the file. Raises `Refused` when it cannot be written."""
        self.path = path
        self.logs = logs
        self._error: OSError | None = None
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        try:
            self._file: BinaryIO = path.open("wb", buffering=0)
            self._file.write(first_line([log.info for log in logs], facts))
        except OSError as error:
            raise Refused(f"cannot write recording {path}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._write, name="probe-recorder", daemon=True)
        self._thread.start()

    def flush(self, recorded_until_ns: int) -> None:
        """Hand over what was gathered. All that arrived until `recorded_until_ns` must have been told.

        Raises:
            Failed: the recording could not be written; there is no use in going on.
        """
        if self._error is not None:
            raise Failed(
                f"cannot go on writing recording {self.path}: {self._error.strerror}",
                "what was written until then can be read; make room, or record elsewhere",
            )
        blocks = [log.take(recorded_until_ns) for log in self.logs]
        self._waiting.put(b"".join(blocks) + block(Kind.MARK, ALL_STREAMS, at_ns=recorded_until_ns))

    def stopped(self, at_ns: int) -> None:
        """From `at_ns` on nothing more is asked."""
        for log in self.logs:
            log.stopped(at_ns)
        self._waiting.put(block(Kind.STOPPED, ALL_STREAMS, at_ns=at_ns))

    def close(self, *, timeout_s: float = 10.0) -> None:
        """Wait until all is written and close the file. Raises `Failed` when it could not be."""
        self._waiting.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise Failed(f"cannot finish recording {self.path}: the disk did not take it within {timeout_s:g} s")
        self._file.close()
        if self._error is not None:
            raise Failed(f"cannot finish recording {self.path}: {self._error.strerror}")

    def _write(self) -> None:
        while (data := self._waiting.get()) is not None:
            view = memoryview(data)
            try:
                while view and self._error is None:
                    view = view[self._file.write(view) or 0 :]
            except OSError as error:
                self._error = error
