"""The report's part on the network: whether it follows the VM to its new host, and how that is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bascule.report import reading, words


@dataclass(frozen=True, slots=True)
class NicArrival:
    """Whether frames for one NIC were seen to arrive; `addresses` of its guest were announced. `why`: why not."""

    mac: str
    addresses: int
    verified_ms: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Network:
    """Whether the network follows the VM, as the agents saw it after the run.

    `state` is `seen`, `not seen`, or `watching` where the report was written before either. `verified_ms` counts from
    QEMU's RESUME to the first frame from the network at the VM's tap, at the last NIC, on the destination's `clock`.
    `at_source_after_run` frames for the VM still came to the source after it knew that the VM runs, the last of them
    seen `at_source_for_ms` later on its own clock; None where it could not count.
    """

    state: str
    verified_ms: float | None
    clock: str
    why: str
    announcements: int
    announced_frames: int
    at_source_after_run: int | None
    at_source_for_ms: float
    nics: tuple[NicArrival, ...]


def read_network(row: Mapping[str, Any]) -> Network:
    """Read the `network` part of a report."""
    at_source = reading.number(row, "at_source_after_run")
    return Network(
        state=reading.text(row, "state"),
        verified_ms=reading.number(row, "verified_ms"),
        clock=reading.text(row, "clock"),
        why=reading.text(row, "why"),
        announcements=reading.count(row, "announcements"),
        announced_frames=reading.count(row, "announced_frames"),
        at_source_after_run=None if at_source is None else int(at_source),
        at_source_for_ms=reading.amount(row, "at_source_for_ms"),
        nics=tuple(
            NicArrival(
                mac=reading.text(nic, "mac"),
                addresses=reading.count(nic, "addresses"),
                verified_ms=reading.number(nic, "verified_ms"),
                why=reading.text(nic, "why"),
            )
            for nic in reading.rows(row, "nics")
        ),
    )


def arrival(network: Network) -> str:
    """Tell when the VM's frames were seen at its new place, or why they were not."""
    if network.state == "seen" and network.verified_ms is not None:
        clock = f" ({words.visible(network.clock)}'s clock)" if network.clock else ""
        return f"follows the VM: seen {words.milliseconds(network.verified_ms)} after it ran{clock}"
    if network.state == "watching":
        return "not known yet when this was written"
    why = words.visible(network.why).rstrip(".")
    silent = [nic for nic in network.nics if nic.verified_ms is None]
    where = ""
    if 0 < len(silent) < len(network.nics):
        where = f" at {', '.join(words.visible(nic.mac) for nic in silent)}"
    return f"not seen to follow the VM{where}" + (f": {why}" if why else "")


def announced(network: Network) -> str:
    """Count what was said, and what still came to the source."""
    told = f"announced {network.announcements:,} times in {network.announced_frames:,} frames"
    if network.at_source_after_run is None:
        return told
    if not network.at_source_after_run:
        return f"{told}; no frame came to the source any more"
    last = words.milliseconds(network.at_source_for_ms)
    return f"{told}; {network.at_source_after_run:,} frames still came to the source, the last within {last}"
