"""The explorer finds seeded bugs, and tells each as a story."""

from __future__ import annotations

import pytest
from tests.explorer.core import Core
from tests.explorer.mutants import MUTANTS, runs_before_it_journals
from tests.explorer.search import search
from tests.explorer.steps import Steps
from tests.explorer.world import Budget

from bascule.migration.model import Mode

TAKE = "Y is asked by X: take the VM, my copy is complete and stands still"
STORIES = {
    "runs-before-it-journals": (
        "Y runs the VM, and its register does not hold `taken`",
        (TAKE, "Y looks whether the VM may run here", "Y tells its QEMU to run the VM"),
    ),
    "resumes-on-a-timeout": (
        "both hosts own the VM at epoch 2",
        (
            "QEMU on X has sent everything",
            "X has waited for a long time",
            "X journals that its offer is settled: the VM stays",
            TAKE,
            "Y writes the register, asking for `taken`",
        ),
    ),
    "offers-too-late": (
        "the last good copy of the VM was destroyed",
        (
            "X starts the copy",
            "QEMU on Y has loaded everything",
            "host X loses power",
            "the agent of X is back",
            "X journals that its offer is settled: the VM stays",
            "Y is asked by X: refuse the VM",
            "Y writes the register, asking for `refused`",
        ),
    ),
    "destroys-on-taken": (
        "X gives its copy up before the VM has run on Y",
        ("Y writes the register, asking for `taken`", "X journals that the VM is Y's"),
    ),
    "register-overwrites": (
        "both hosts own the VM at epoch 2",
        (
            "Y writes the register, asking for `taken` - that is done, and told as failed",
            "X journals that its offer is settled: the VM stays",
        ),
    ),
    "lets-go-too-early": (
        "`failed` is told, and the VM belongs to Y",
        (
            "QEMU on X is killed",
            "Y is asked by X: take the VM, my copy is dead",
            "Y writes the register, asking for `taken`",
            "X journals that the VM is Y's and has ended there, which ends the move",
        ),
    ),
    "marks-ignored": (
        "the VM belongs to neither host",
        (
            "Y tells its QEMU to run the VM",
            "host Y loses power",
            "the agent of Y is back",
            "Y journals that it gives the VM back",
            "X hears Y's answer to 'take the VM, my copy is complete and stands still': taken, and it runs",
            "X journals that the VM is Y's",
        ),
    ),
}


@pytest.mark.parametrize("name", STORIES)
def test_a_seeded_bug_is_caught_and_its_story_told(name: str) -> None:
    mutant = MUTANTS[name]
    steps = Steps(mutant.core(), Mode.LIVE, most_moves=mutant.moves)
    found = search(steps, steps.space.first(Mode.LIVE, mutant.budget))
    (story,) = found.stories
    violation, *lines = story.splitlines()
    broken, key_lines = STORIES[name]
    assert violation == f"VIOLATION: {broken}"
    told = iter(line.partition(". ")[2] for line in lines)
    for line in key_lines:  # in this order
        assert line in told, f"{line!r} is missing, or in another place:\n{story}"


def test_where_the_destination_is_too_quick_the_gate_still_keeps_the_vm_from_running_twice() -> None:
    steps = Steps(Core(destination_step=runs_before_it_journals), Mode.LIVE)
    found = search(steps, steps.space.first(Mode.LIVE, Budget(faults=1)))
    assert found.complete
    assert not found.stories, found.stories[0]
