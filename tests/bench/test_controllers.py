"""The peers' rules, against what their own documentation says comes of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

from harness.controllers import Abort, PollEvery, Rule, SetDowntime, StartPostcopy, rule_of
from harness.policies import LIFTED, read

from bascule.qemu.migration_stats import MigrationStats

GIB = 2**30
POLICIES = read()


def rule(name: str, memory_bytes: int = GIB) -> Rule:
    return rule_of(POLICIES[name].rule, POLICIES[name].rule_settings, memory_bytes)


def limits(actions: list[Any]) -> list[int]:
    return [action.limit_ms for action in actions if isinstance(action, SetDowntime)]


def test_nova_rises_from_50_to_500_ms_in_ten_steps_of_75_s_per_gib() -> None:
    step = rule("nova", 4 * GIB)
    seen = [limit for second in range(0, 3100, 10) for limit in limits(step(second, MigrationStats()))]
    assert seen == [50, 95, 140, 185, 230, 275, 320, 365, 410, 455, 500]
    assert isinstance(step(3201, MigrationStats())[0], Abort)


def test_nova_waits_for_two_gib_at_least() -> None:
    step = rule("nova", GIB)
    assert limits(step(0, MigrationStats())) == [50]
    assert limits(step(149, MigrationStats())) == []
    assert limits(step(150, MigrationStats())) == [95]


def test_ovirt_takes_one_step_a_look_and_only_after_a_new_round() -> None:
    step = rule("ovirt-minimal-downtime")
    rounds = [1, 2, 2, 9, 12, 15, 18, 21]
    seen = [step(10.0 * number, MigrationStats(dirty_sync_count=count)) for number, count in enumerate(rounds, 1)]
    assert [limits(actions) for actions in seen] == [[100], [150], [], [200], [300], [400], [500], []]
    assert isinstance(seen[-1][0], Abort)


def test_ovirt_post_copy_switches_when_its_schedule_is_at_its_end() -> None:
    step = rule("ovirt-post-copy")
    seen = [step(10.0 * count, MigrationStats(dirty_sync_count=count)) for count in range(2, 6)]
    assert [limits(actions) for actions in seen] == [[100, 150], [200], [], []]
    assert isinstance(seen[2][0], StartPostcopy)
    assert isinstance(seen[3][0], Abort)


def test_proxmox_doubles_after_the_sixth_rise_and_looks_more_often_near_the_end() -> None:
    step = rule("proxmox")
    seen = []
    for number in range(1, 15):
        stats = MigrationStats(transferred_bytes=number * 10**9, remaining_bytes=10**10 + number)
        seen += step(float(number), stats)
    assert limits(seen) == [200, 400]
    near = step(20.0, MigrationStats(transferred_bytes=16 * 10**9, remaining_bytes=1000))
    assert near == [PollEvery(0.1)]


def test_kubevirt_gives_up_without_progress() -> None:
    step = rule("kubevirt")
    assert step(0.4, MigrationStats(remaining_bytes=500)) == []
    assert step(100, MigrationStats(remaining_bytes=499)) == []
    assert step(249, MigrationStats(remaining_bytes=600)) == []
    assert isinstance(step(251, MigrationStats(remaining_bytes=600))[0], Abort)


def test_a_lifted_row_differs_in_its_cap_alone() -> None:
    for name in (name for name in POLICIES if name.endswith(LIFTED)):
        lifted, capped = POLICIES[name], POLICIES[name.removesuffix(LIFTED)]
        differing = {key for key in lifted.parameters if lifted.parameters[key] != capped.parameters.get(key)}
        assert differing <= {"max-bandwidth", "max-postcopy-bandwidth"}
        assert lifted.parameters["max-bandwidth"] > 2**60
        assert (lifted.capabilities, lifted.rule) == (capped.capabilities, capped.rule)
