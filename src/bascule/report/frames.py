"""The report's part on the frames that came for the VM while it stood still, and how that is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bascule.report import reading, words


@dataclass(frozen=True, slots=True)
class Frames:
    """What became of them, as the agents counted.

    `carried` had come to the other host and were brought to the VM, `found_back` of them after QEMU had swallowed them;
    `waited` came to its new place directly; `late` of those carried came after the VM ran, so out of order; `lost` are
    known to have been lost, and `why`.
    """

    carried: int
    waited: int
    found_back: int
    late: int
    lost: int
    why: str


def read_frames(row: Mapping[str, Any]) -> Frames:
    """Read the `frames` part of a report."""
    return Frames(
        carried=reading.count(row, "carried"),
        waited=reading.count(row, "waited"),
        found_back=reading.count(row, "found_back"),
        late=reading.count(row, "late"),
        lost=reading.count(row, "lost"),
        why=reading.text(row, "why"),
    )


def told(frames: Frames) -> str:
    """Tell it in one sentence."""
    parts = [f"{frames.waited:,} waited for the VM", f"{frames.carried:,} were carried to it"]
    if frames.found_back:
        parts.append(f"{frames.found_back:,} of them found back")
    if frames.late:
        parts.append(f"{frames.late:,} too late for their order")
    why = words.visible(frames.why).rstrip(".")
    if not frames.lost and why:
        lost = f"none known to be lost, but not all could be watched: {why}"
    else:
        lost = f"{frames.lost:,} lost" + (f": {why}" if why else "") if frames.lost else "none lost"
    return f"{', '.join(parts)}; {lost}"
