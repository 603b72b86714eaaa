"""What the first vCPU of a lab's QEMU does: its time on a processor, its waits for one, its page faults.

By Linux's accounting of its thread (/proc/PID/task/TID/schedstat and stat). One processor's time is spent on it.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LOOK_S = 0.001
SEARCH_S = 0.02
MINOR_FAULTS = 7  # field of /proc/PID/task/TID/stat after the name, from 0: minflt


class Used(NamedTuple):
    """Between two moments."""

    ran_ms: float
    waited_ms: float
    faults: int


class _Sample(NamedTuple):
    at_ns: int  # CLOCK_MONOTONIC
    ran_ns: int
    waited_ns: int
    faults: int


class VcpuTime:
    """Watches the first vCPU of the QEMU that starts next in a lab, or of the one that runs. Use `with`."""

    def __init__(self, directory: Path, *, new: bool) -> None:
        self._mark = str(directory).encode()
        self._old = set(self._qemus()) if new else set()
        self._samples: list[_Sample] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> VcpuTime:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def between(self, begin_ns: int, end_ns: int) -> Used:
        """What it used between two readings of CLOCK_MONOTONIC, to the next millisecond."""
        first, last = self._at(begin_ns), self._at(end_ns)
        return Used(
            (last.ran_ns - first.ran_ns) / 1e6, (last.waited_ns - first.waited_ns) / 1e6, last.faults - first.faults
        )

    def _at(self, at_ns: int) -> _Sample:
        place = bisect_left(self._samples, at_ns, key=lambda sample: sample.at_ns)
        return self._samples[min(place, len(self._samples) - 1)]

    def _watch(self) -> None:
        thread: Path | None = None
        while not self._end.is_set():
            if thread is None:
                thread = next((found for pid in self._qemus() - self._old if (found := _first_vcpu(pid))), None)
                self._end.wait(SEARCH_S if thread is None else 0)
                continue
            try:
                ran, waited, _ = (thread / "schedstat").read_text().split()
                faults = (thread / "stat").read_text().rpartition(")")[2].split()[MINOR_FAULTS]
            except OSError:
                return  # it has ended
            self._samples.append(_Sample(time.monotonic_ns(), int(ran), int(waited), int(faults)))
            self._end.wait(LOOK_S)

    def _qemus(self) -> set[int]:
        found = set()
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with suppress(OSError):
                    words = (process / "cmdline").read_bytes()
                    if b"qemu-system" in words.partition(b"\0")[0] and self._mark in words:
                        found.add(int(process.name))
        return found


def _first_vcpu(pid: int) -> Path | None:
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            if (thread / "comm").read_text().startswith("CPU 0"):
                return thread
    return None
