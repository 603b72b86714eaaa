"""The rules by which other tools steer a running migration. Pure: what was seen goes in, what to do comes out.

Each rule is called once a poll with the seconds since the start and QEMU's statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bascule.qemu.migration_stats import MigrationStats

GIB = 2**30


@dataclass(frozen=True, slots=True)
class SetDowntime:
    """Set `downtime-limit`."""

    limit_ms: int


@dataclass(frozen=True, slots=True)
class StartPostcopy:
    """Switch to post-copy."""


@dataclass(frozen=True, slots=True)
class Abort:
    """Cancel: the VM stays where it is."""

    reason: str


@dataclass(frozen=True, slots=True)
class PollEvery:
    """Look more often, or more rarely."""

    seconds: float


Action = SetDowntime | StartPostcopy | Abort | PollEvery
Rule = Callable[[float, MigrationStats], list[Action]]


def rule_of(name: str, settings: Mapping[str, Any], memory_bytes: int) -> Rule:
    """Return a fresh rule. Raises KeyError for one that does not exist."""
    makers: dict[str, Callable[..., Rule]] = {
        "none": _none,
        "time-steps": _time_steps,
        "schedule": _schedule,
        "doubling": _doubling,
        "timeout": _timeout,
    }
    return makers[name](memory_bytes=memory_bytes, **settings)


def _none(*, memory_bytes: int) -> Rule:
    del memory_bytes
    return lambda _elapsed_s, _stats: []


def _time_steps(
    *, memory_bytes: int, max_ms: int, steps: int, delay_s_per_gib: float, least_gib: float, timeout_s_per_gib: float
) -> Rule:
    """Nova: the limit rises in equal steps from max/steps to max, step i after i x delay x GiB; then a time-out.

    The base is max/steps, the offset (max - base)/steps, step i is base + offset x i.
    """
    gib = max(least_gib, memory_bytes / GIB)
    base = max_ms // steps
    offset = (max_ms - base) / steps
    done = 0

    def rule(elapsed_s: float, _stats: MigrationStats) -> list[Action]:
        nonlocal done
        if elapsed_s > timeout_s_per_gib * gib:
            return [Abort(f"not complete within {timeout_s_per_gib * gib:g} s")]
        due = min(steps, int(elapsed_s / (delay_s_per_gib * gib)))
        if done and due < done:
            return []
        done = due + 1
        return [SetDowntime(int(base + offset * due))]

    return rule


def _schedule(*, memory_bytes: int, initial_ms: int, items: list[list[Any]], last: list[str]) -> Rule:
    """oVirt: item (limit, ms) fires when limit < rounds since the start, at most one a poll, each new round once.

    The words of `last` follow in order at the next new rounds: a number of ms, "postcopy" or "abort".
    """
    del memory_bytes
    waiting = [*items, *([-1, word] for word in last)]
    seen = 0
    started = False

    def rule(_elapsed_s: float, stats: MigrationStats) -> list[Action]:
        nonlocal seen, started
        first: list[Action] = [] if started else [SetDowntime(initial_ms)]
        started = True
        if stats.dirty_sync_count <= seen or not waiting:
            return first
        seen = stats.dirty_sync_count
        limit, what = waiting[0]
        if limit >= seen:
            return first
        waiting.pop(0)
        if what == "postcopy":
            return [*first, StartPostcopy()]
        if what == "abort":
            return [*first, Abort("its schedule is at its end")]
        return [*first, SetDowntime(int(what))]

    return rule


def _doubling(
    *, memory_bytes: int, first_ms: int, after_rises: int, near_end_poll_s: float, largest_ms: int = 2_000_000
) -> Rule:
    """Proxmox VE: double the limit when what remains has risen more than `after_rises` times between two polls.

    It looks more often once less remains than it has sent in an average poll.
    """
    del memory_bytes
    limit_ms, rises, polls = first_ms, 0, 0
    transferred, remaining = 0, 0

    def rule(_elapsed_s: float, stats: MigrationStats) -> list[Action]:
        nonlocal limit_ms, rises, polls, transferred, remaining
        polls += 1
        average = transferred / polls
        actions: list[Action] = []
        if stats.transferred_bytes != transferred:
            if average and stats.remaining_bytes < average:
                actions.append(PollEvery(near_end_poll_s))
            if (remaining and stats.remaining_bytes > remaining) or stats.remaining_bytes == 0:
                rises += 1
            remaining = stats.remaining_bytes
            if rises > after_rises:
                rises = 0
                limit_ms = min(largest_ms, limit_ms * 2)
                actions.append(SetDowntime(limit_ms))
        transferred = stats.transferred_bytes
        return actions

    return rule


def _timeout(*, memory_bytes: int, timeout_s_per_gb: float, progress_timeout_s: float) -> Rule:
    """KubeVirt: abort when it takes too long, or when what remains has not fallen for too long."""
    timeout_s = timeout_s_per_gb * -(-memory_bytes // 10**9)
    least, since_s = 0, 0.0

    def rule(elapsed_s: float, stats: MigrationStats) -> list[Action]:
        nonlocal least, since_s
        if not least or stats.remaining_bytes < least:
            least, since_s = stats.remaining_bytes, elapsed_s
        if elapsed_s > timeout_s:
            return [Abort(f"not complete within {timeout_s:g} s")]
        if elapsed_s - since_s > progress_timeout_s:
            return [Abort(f"no progress for {progress_timeout_s:g} s")]
        return []

    return rule
