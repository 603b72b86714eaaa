"""What QEMU says about a migration (`query-migrate`), as one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

FINAL_STATUSES = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class MigrationStats:
    """One answer of one side. A destination knows only its status; what a side does not know is 0 or None.

    `status` is QEMU's word, passed on as it is: `none` (nothing yet), `setup`, `active`, `device` (all versions:
    with pause-before-switchover; from 10.0 always), `cancelling`, and finally `completed`, `failed` or `cancelled`;
    others exist and more will come, so test for the ones you mean.

    `remaining_bytes` is exact at a round's beginning and lags behind the guest's writing during it.
    `dirty_sync_count` is the number of the round under way, from 1. `dirty_pages_rate` (pages/s) saturates at
    the bandwidth and is no measure of the guest's writing. `mbps` is 10^6 bits/s over a recent window.
    `downtime_ms` is QEMU's own figure, not the blackout. `downtime_bytes` were sent while the guest was stopped.
    """

    status: str = "none"
    error_desc: str = ""
    total_time_ms: int | None = None
    setup_time_ms: int | None = None
    expected_downtime_ms: int | None = None
    downtime_ms: int | None = None
    transferred_bytes: int = 0
    remaining_bytes: int = 0
    total_bytes: int = 0
    precopy_bytes: int = 0
    downtime_bytes: int = 0
    normal_pages: int = 0
    zero_pages: int = 0
    dirty_sync_count: int = 0
    dirty_pages_rate: int = 0
    mbps: float = 0.0
    page_size: int = 4096

    @property
    def final(self) -> bool:
        """Whether this migration has ended, in one way or another."""
        return self.status in FINAL_STATUSES

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        """Read the answer to `query-migrate`; members that are missing or unknown do no harm."""
        ram: Mapping[str, Any] = answer.get("ram", {})
        return cls(
            status=answer.get("status", "none"),
            error_desc=answer.get("error-desc", ""),
            total_time_ms=answer.get("total-time"),
            setup_time_ms=answer.get("setup-time"),
            expected_downtime_ms=answer.get("expected-downtime"),
            downtime_ms=answer.get("downtime"),
            transferred_bytes=ram.get("transferred", 0),
            remaining_bytes=ram.get("remaining", 0),
            total_bytes=ram.get("total", 0),
            precopy_bytes=ram.get("precopy-bytes", 0),
            downtime_bytes=ram.get("downtime-bytes", 0),
            normal_pages=ram.get("normal", 0),
            zero_pages=ram.get("duplicate", 0),
            dirty_sync_count=ram.get("dirty-sync-count", 0),
            dirty_pages_rate=ram.get("dirty-pages-rate", 0),
            mbps=ram.get("mbps", 0.0),
            page_size=ram.get("page-size", 4096),
        )
