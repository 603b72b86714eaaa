"""Two QEMUs that really migrate; each test is one sentence about what QEMU or our control of it does."""

import asyncio
import os
import signal
import time
from typing import Any

import pytest

from bascule.errors import Failed, Unknown
from bascule.qemu.migration_control import MigrationControl, MigrationParameters
from bascule.qemu.process import QemuExited
from bascule.qemu.qmp import QmpError, QmpEvent, QmpTimeout

pytestmark = pytest.mark.lab

SLOW = 200_000  # bytes/s: a migration that does not end during a test
ANY_DOWNTIME_MS = 60_000
CANCELLED = {"cancelled", "failed"}  # QEMU shuts the connection first, and may notice that before it notes why


def names(events: list[QmpEvent]) -> list[str]:
    return [str(event.data["status"]) if event.name == "MIGRATION" else event.name for event in events]


async def in_round(pair: Any, number: int, bench: Any) -> None:
    async def reached() -> bool:
        return (await pair.out.query()).dirty_sync_count >= number

    await bench.until(reached, f"round {number}")


async def test_a_busy_guest_copies_until_told_and_then_runs_on_from_where_it_stopped(
    busy_pair: Any, bench: Any
) -> None:
    await busy_pair.start()
    await in_round(busy_pair, 3, bench)
    assert (await busy_pair.out.query()).status == "active"
    assert await busy_pair.destination.status() == "inmigrate"

    await busy_pair.out.set_downtime_limit(ANY_DOWNTIME_MS)
    sent = await busy_pair.out.wait_final(deadline_s=30)
    loaded = await busy_pair.into.wait_final(deadline_s=30)

    assert (sent.status, loaded.status) == ("completed", "completed")
    assert await busy_pair.source.status() == "postmigrate"
    # Started with -S, the destination waits for the decision with everything loaded.
    assert await busy_pair.destination.status() == "paused"
    stopped_at = await bench.counter(busy_pair.source)
    assert abs(await bench.counter(busy_pair.destination) - stopped_at) <= 1
    await busy_pair.destination.let_vcpus_run()
    await bench.guest_runs(busy_pair.destination)
    assert await bench.counter(busy_pair.source) == stopped_at


async def test_stats_add_up(busy_pair: Any, bench: Any) -> None:
    await busy_pair.start()
    await in_round(busy_pair, 3, bench)
    await busy_pair.out.set_downtime_limit(ANY_DOWNTIME_MS)
    stats = await busy_pair.out.wait_final(deadline_s=30)

    assert stats.remaining_bytes == 0
    assert stats.total_bytes >= 128 << 20
    # Two rounds at least rewrote all that the guest dirties, and at least one of them while it ran.
    assert stats.normal_pages * stats.page_size >= 2 * bench.dirtied_bytes
    assert stats.transferred_bytes >= stats.normal_pages * stats.page_size
    assert stats.downtime_bytes > 0
    assert stats.precopy_bytes + stats.downtime_bytes == stats.transferred_bytes
    assert stats.dirty_sync_count >= 3
    assert stats.total_time_ms is not None
    assert stats.downtime_ms is not None
    assert stats.setup_time_ms is not None
    assert 0 <= stats.downtime_ms <= stats.total_time_ms


async def test_events_come_in_order_with_qemus_own_clock(busy_pair: Any, bench: Any) -> None:
    began_us = time.time_ns() // 1000
    await busy_pair.start()
    await in_round(busy_pair, 2, bench)
    await busy_pair.out.set_downtime_limit(ANY_DOWNTIME_MS)
    await busy_pair.out.wait_final(deadline_s=30)
    await busy_pair.into.wait_final(deadline_s=30)
    await busy_pair.destination.let_vcpus_run()
    ended_us = time.time_ns() // 1000

    assert names(busy_pair.destination_events) == ["setup", "active", "completed", "RESUME"]
    said = [name for name in names(busy_pair.source_events) if name != "MIGRATION_PASS"]
    assert [name for name in said if name != "device"] == ["setup", "active", "STOP", "completed"]
    passes = [event.data["pass"] for event in busy_pair.source_events if event.name == "MIGRATION_PASS"]
    assert passes == list(range(1, len(passes) + 1))
    for events in (busy_pair.source_events, busy_pair.destination_events):
        received = [event.received_s for event in events]
        assert received == sorted(received)
        assert all(began_us <= event.at_us <= ended_us for event in events)
    stop_us = next(event.at_us for event in busy_pair.source_events if event.name == "STOP")
    resume_us = busy_pair.destination_events[-1].at_us
    assert stop_us < resume_us


async def test_an_idle_guest_finishes_by_itself_under_the_lowest_limit(idle_pair: Any) -> None:
    await idle_pair.source.let_vcpus_run()
    await idle_pair.start()
    assert (await idle_pair.out.wait_final(deadline_s=30)).status == "completed"
    await idle_pair.into.wait_final(deadline_s=30)
    assert await idle_pair.destination.status() == "paused"


async def test_a_limit_of_zero_would_switch_over_after_one_round_whatever_the_guest_wrote(busy_pair: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await busy_pair.out.set_downtime_limit(0)
    await busy_pair.out.prepare(MigrationParameters())
    await busy_pair.source.execute("migrate-set-parameters", {"downtime-limit": 0})
    port = await busy_pair.into.start_incoming("127.0.0.1")
    await busy_pair.source.execute("migrate", {"uri": f"tcp:127.0.0.1:{port}"})
    stats = await busy_pair.out.wait_final(deadline_s=30)
    assert stats.status == "completed"
    assert stats.dirty_sync_count == 2


async def test_cancel_in_flight_leaves_the_guest_running_and_the_parameters_as_qemu_starts_with(
    busy_pair: Any, bench: Any
) -> None:
    fresh_parameters = await busy_pair.source.execute("query-migrate-parameters")
    fresh_capabilities = await busy_pair.source.execute("query-migrate-capabilities")
    await busy_pair.start(max_bandwidth_bytes_per_s=SLOW)
    await in_round(busy_pair, 1, bench)
    assert await busy_pair.source.execute("query-migrate-parameters") != fresh_parameters

    assert (await busy_pair.out.cancel()).status in CANCELLED

    assert await busy_pair.source.status() == "running"
    await bench.guest_runs(busy_pair.source)
    assert await busy_pair.source.execute("query-migrate-parameters") == fresh_parameters
    assert await busy_pair.source.execute("query-migrate-capabilities") == fresh_capabilities
    # A destination whose source goes away ends itself.
    status = await asyncio.wait_for(busy_pair.destination.exited(), 10)
    assert status.code == 1
    assert "load of migration failed" in busy_pair.destination.process.stderr_tail()


async def test_a_cancelled_guest_can_be_moved_again(busy_pair: Any, bench: Any, features: Any) -> None:
    await busy_pair.start(max_bandwidth_bytes_per_s=SLOW)
    await in_round(busy_pair, 1, bench)
    await busy_pair.out.cancel()

    busy_pair.destination = await bench.launch("second", kernel=bench.dirtier, incoming=True)
    busy_pair.into = MigrationControl(busy_pair.destination, features)
    await busy_pair.start(downtime_limit_ms=ANY_DOWNTIME_MS)
    assert (await busy_pair.out.wait_final(deadline_s=30)).status == "completed"


async def test_cancel_after_the_end_says_completed_and_without_a_migration_says_none(idle_pair: Any) -> None:
    assert (await idle_pair.out.cancel()).status == "none"
    await idle_pair.start()
    await idle_pair.out.wait_final(deadline_s=30)
    assert (await idle_pair.out.cancel()).status == "completed"
    assert await idle_pair.source.status() == "postmigrate"


async def test_a_killed_destination_fails_the_migration_and_the_guest_never_stops(busy_pair: Any, bench: Any) -> None:
    await busy_pair.start(max_bandwidth_bytes_per_s=SLOW)
    await in_round(busy_pair, 1, bench)
    await busy_pair.destination.kill()
    assert (await busy_pair.out.wait_final(deadline_s=30)).status == "failed"
    assert "STOP" not in names(busy_pair.source_events)
    await bench.guest_runs(busy_pair.source)


async def test_nobody_listening_fails_with_the_reason_before_anything_begins(bench: Any, features: Any) -> None:
    control = MigrationControl(await bench.launch("source"), features)
    await control.prepare(MigrationParameters())
    with pytest.raises(Failed, match="Connection refused"):
        await control.start_outgoing("tcp:127.0.0.1:1")
    assert (await control.query()).status == "none"


async def test_a_frozen_destination_can_be_cancelled_while_the_guest_runs(busy_pair: Any, bench: Any) -> None:
    await busy_pair.start()
    await in_round(busy_pair, 2, bench)
    os.kill(busy_pair.destination.record.pid, signal.SIGSTOP)
    assert (await busy_pair.out.cancel()).status in CANCELLED
    await bench.guest_runs(busy_pair.source)
    with pytest.raises(QmpTimeout):
        await busy_pair.destination.execute("query-status", deadline_s=0.3)


async def frozen_in_the_blackout(pair: Any, bench: Any) -> None:
    """Freeze the destination just as the source stops, and wait until the source is stuck in sending."""

    def freeze(event: QmpEvent) -> None:
        if event.name == "STOP":
            os.kill(pair.destination.record.pid, signal.SIGSTOP)

    pair.source.subscribe(freeze)
    await pair.start()
    await in_round(pair, 2, bench)
    try:
        await pair.out.set_downtime_limit(ANY_DOWNTIME_MS)
    except QmpTimeout:
        return  # stuck before it could answer

    async def stuck() -> bool:
        try:
            await pair.source.execute("query-status", deadline_s=0.5)
        except QmpTimeout:
            return True
        return False

    await bench.until(stuck, "the source is stuck")


async def test_a_source_stuck_in_its_last_sending_is_freed_by_cancel(busy_pair: Any, bench: Any) -> None:
    await frozen_in_the_blackout(busy_pair, bench)
    stats = await busy_pair.out.cancel(deadline_s=20)
    assert stats.status in CANCELLED
    said = names(busy_pair.source_events)
    assert "RESUME" in said[said.index("STOP") :]
    await bench.guest_runs(busy_pair.source)


async def test_a_source_stuck_in_its_last_sending_runs_again_when_the_destination_dies(
    busy_pair: Any, bench: Any
) -> None:
    await frozen_in_the_blackout(busy_pair, bench)
    await busy_pair.destination.kill()
    assert (await busy_pair.out.wait_final(deadline_s=20)).status == "failed"
    assert await busy_pair.source.status() == "running"
    await bench.guest_runs(busy_pair.source)


async def test_a_destination_dies_with_its_source_and_says_why(busy_pair: Any, bench: Any) -> None:
    await busy_pair.start(max_bandwidth_bytes_per_s=SLOW)
    await in_round(busy_pair, 1, bench)
    await busy_pair.source.kill()
    with pytest.raises(QemuExited, match="load of migration failed"):
        await busy_pair.into.wait_final(deadline_s=30)


async def test_waiting_ends_at_its_deadline_and_names_the_status(busy_pair: Any, bench: Any) -> None:
    await busy_pair.start(max_bandwidth_bytes_per_s=SLOW)
    await in_round(busy_pair, 1, bench)
    with pytest.raises(Unknown, match="active"):
        await busy_pair.out.wait_final(deadline_s=0.2)


async def test_the_first_free_port_is_taken_and_told(bench: Any, features: Any) -> None:
    first = MigrationControl(await bench.launch("one", incoming=True), features)
    second = MigrationControl(await bench.launch("two", incoming=True), features)
    third = MigrationControl(await bench.launch("three", incoming=True), features)
    taken = await first.start_incoming("127.0.0.1")
    other = await second.start_incoming("127.0.0.1", (taken, 0))
    assert other not in {0, taken}
    with pytest.raises(QmpError, match="Address already in use"):
        await third.start_incoming("127.0.0.1", (taken,))
    # Having failed it may try again.
    assert await third.start_incoming("127.0.0.1") > 0


async def test_ipv6_addresses_work(bench: Any, features: Any) -> None:
    control = MigrationControl(await bench.launch("six", incoming=True), features)
    assert await control.start_incoming("::1") > 0


async def test_a_completed_source_can_run_again_once_the_destination_is_gone(idle_pair: Any) -> None:
    await idle_pair.source.let_vcpus_run()
    await idle_pair.start()
    await idle_pair.out.wait_final(deadline_s=30)
    await idle_pair.into.wait_final(deadline_s=30)
    await idle_pair.destination.let_vcpus_run()

    with pytest.raises(QmpError, match='Failed to get "write" lock'):
        await idle_pair.source.let_vcpus_run()
    assert await idle_pair.source.status() == "postmigrate"

    await idle_pair.destination.kill()
    await idle_pair.source.let_vcpus_run()
    assert await idle_pair.source.status() == "running"


async def test_late_activation_the_destination_takes_the_disk_only_when_it_runs(idle_pair: Any) -> None:
    await idle_pair.source.let_vcpus_run()
    await idle_pair.start()
    await idle_pair.out.wait_final(deadline_s=30)
    await idle_pair.into.wait_final(deadline_s=30)
    # Loaded, the destination holds no lock yet: the source could still take the disk back.
    await idle_pair.source.let_vcpus_run()
    with pytest.raises(QmpError, match='Failed to get "write" lock'):
        await idle_pair.destination.let_vcpus_run()
    assert await idle_pair.destination.status() == "paused"


async def test_a_moved_guest_moves_on(busy_pair: Any, bench: Any, features: Any) -> None:
    await busy_pair.start(downtime_limit_ms=ANY_DOWNTIME_MS)
    await busy_pair.out.wait_final(deadline_s=30)
    await busy_pair.into.wait_final(deadline_s=30)
    await busy_pair.destination.let_vcpus_run()
    await busy_pair.into.restore()

    third = await bench.launch("third", kernel=bench.dirtier, incoming=True)
    onward = type(busy_pair)(busy_pair.destination, third, features)
    await onward.start()
    await in_round(onward, 2, bench)
    # The status is that of the present migration, not of the one that brought the guest here.
    assert (await onward.out.query()).status == "active"
    assert (await onward.out.cancel()).status in CANCELLED
    await bench.guest_runs(busy_pair.destination)
