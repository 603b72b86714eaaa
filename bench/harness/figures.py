"""Sums over a few moves, and the machine that they were made on."""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Write a median with the least and the greatest value."""
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest rank: the smallest value that at least this share is not above; of few, the greatest."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def median_of(values: Sequence[float]) -> float | None:
    """Return the median, or None of nothing."""
    return statistics.median(values) if values else None


def qemu_version(binary: str) -> str:
    """Return QEMU's own word for its version."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0]


def machine_line(binary: str, memory_mib: int, link: str | None = None) -> str:
    """Describe guest and host in a sentence or two."""
    return (
        f"Guest: {memory_mib} MiB, 1 vCPU, software emulation (TCG); host: {_processor()}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.release().split('-')[0]}, {qemu_version(binary)}; "
        f"links {link or 'without a limit'}."
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
