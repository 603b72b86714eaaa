"""No rule is broken in any world, and every world that is left in peace comes to a good end."""

from __future__ import annotations

import pytest
from tests.explorer.conftest import Explore
from tests.explorer.core import Core
from tests.explorer.search import ends, search
from tests.explorer.steps import Steps
from tests.explorer.world import Budget

from bascule.migration import destination, source
from bascule.migration.model import Mode

CALM, CANCEL, FAULT = Budget(), Budget(cancels=1), Budget(faults=1)
FAULT_AND_CANCEL, FAULT_AND_OPERATOR = Budget(faults=1, cancels=1), Budget(faults=1, operators=1)
BUDGETS = (CALM, CANCEL, FAULT, FAULT_AND_CANCEL, FAULT_AND_OPERATOR)
ENOUGH = {CALM: 100, CANCEL: 1_000, FAULT: 6_000, FAULT_AND_CANCEL: 50_000, FAULT_AND_OPERATOR: 12_000}

every_mode = pytest.mark.parametrize("mode", list(Mode))
every_budget = pytest.mark.parametrize("budget", BUDGETS, ids=str)


@every_mode
@every_budget
def test_no_rule_is_broken_in_any_world_of_one_move(explore: Explore, mode: Mode, budget: Budget) -> None:
    _, found = explore(mode, budget)
    assert not found.stories, found.stories[0]
    assert found.complete
    assert len(found.worlds) >= ENOUGH[budget], "the explorer has become blind"


@every_mode
@every_budget
def test_a_world_that_is_left_in_peace_comes_to_a_good_end(explore: Explore, mode: Mode, budget: Budget) -> None:
    steps, found = explore(mode, budget)
    stories = ends(steps, found, sample=1_500)
    assert not stories, min(stories, key=len)


@every_mode
def test_two_faults_break_no_rule_as_far_as_the_search_goes(core: Core, mode: Mode) -> None:
    steps = Steps(core, mode)
    found = search(steps, steps.space.first(mode, Budget(faults=2)), most_worlds=60_000)
    assert not found.stories, found.stories[0]
    stories = ends(steps, found, sample=1_000)
    assert not stories, min(stories, key=len)


@every_mode
def test_a_vm_that_is_moved_on_back_or_again_breaks_no_rule(core: Core, mode: Mode) -> None:
    steps = Steps(core, mode, most_moves=2)
    found = search(steps, steps.space.first(mode, FAULT), most_worlds=60_000)
    assert not found.stories, found.stories[0]
    stories = ends(steps, found, sample=1_000)
    assert not stories, min(stories, key=len)


@every_mode
def test_three_moves_without_a_fault_all_arrive(core: Core, mode: Mode) -> None:
    steps = Steps(core, mode, most_moves=3)
    found = search(steps, steps.space.first(mode, CALM))
    assert not found.stories, found.stories[0]
    assert found.complete
    last = [steps.draft(world) for world in found.worlds]
    arrived = [
        draft.rest.told for draft in last if len(draft.rest.moves) == 3 and not any(h.engines for h in draft.hosts)
    ]
    assert ("completed",) * 3 in arrived


@every_mode
def test_a_vm_that_came_by_a_migration_itself_is_moved_as_well(core: Core, mode: Mode) -> None:
    """Its QEMU says `completed` of that migration until it begins another."""
    steps = Steps(core, mode)
    found = search(steps, steps.space.first(mode, FAULT, earlier=True))
    assert not found.stories, found.stories[0]
    assert found.complete


def test_every_edge_of_the_states_diagrams_is_walked(explore: Explore, core: Core) -> None:
    for mode in Mode:
        for budget in BUDGETS:
            explore(mode, budget)
    drawn = {(a, b) for table in (source.SUCCESSORS, destination.SUCCESSORS) for a, bs in table.items() for b in bs}
    assert core.walked == drawn, sorted((a.__name__, b.__name__) for a, b in core.walked ^ drawn)
