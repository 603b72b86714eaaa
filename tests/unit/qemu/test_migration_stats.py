from typing import Any

import pytest

from bascule.qemu.migration_stats import MigrationStats


def test_nothing_yet() -> None:
    stats = MigrationStats.read({})
    assert stats.status == "none"
    assert not stats.final


def test_a_migration_under_way() -> None:
    ram: dict[str, Any] = {
        "total": 134750208, "transferred": 943551, "remaining": 4096, "normal": 158, "duplicate": 32780,
        "dirty-sync-count": 2, "dirty-pages-rate": 7, "mbps": 931.5, "page-size": 4096, "precopy-bytes": 779384,
        "downtime-bytes": 164167,
    }  # fmt: skip
    answer = {"status": "active", "expected-downtime": 1, "setup-time": 15, "total-time": 502, "ram": ram}
    assert MigrationStats.read(answer) == MigrationStats(
        status="active",
        total_time_ms=502,
        setup_time_ms=15,
        expected_downtime_ms=1,
        transferred_bytes=943551,
        remaining_bytes=4096,
        total_bytes=134750208,
        precopy_bytes=779384,
        downtime_bytes=164167,
        normal_pages=158,
        zero_pages=32780,
        dirty_sync_count=2,
        dirty_pages_rate=7,
        mbps=931.5,
        page_size=4096,
    )


def test_failures_carry_their_reason() -> None:
    stats = MigrationStats.read({"status": "failed", "error-desc": "Connection refused"})
    assert (stats.final, stats.error_desc) == (True, "Connection refused")


@pytest.mark.parametrize("status", ["device", "cancelling", "pre-switchover", "a word of a later version"])
def test_words_that_are_not_final_pass_through(status: str) -> None:
    stats = MigrationStats.read({"status": status, "a member of a later version": {}})
    assert stats.status == status
    assert not stats.final
