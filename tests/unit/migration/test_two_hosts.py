"""Both sides of a move together, under every interleaving and fault that comes up."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.migration.world import World

from bascule.migration import source
from bascule.migration.model import Decision, Mode, Outcome


def story_of(world: World) -> str:
    return "\n  ".join(["", *world.story, f"A: {world.a}", f"B: {world.b}"])


def happens(world: World, choice: tuple) -> None:
    """One step, and a look at the rules; a violation prints the story that led to it."""
    name, happen = choice
    world.story.append(name)
    try:
        happen()
        world.check()
    except AssertionError as error:
        raise AssertionError(f"{error}\nafter{story_of(world)}") from error


def bad_day(world: World, pick: random.Random) -> None:
    """Let things happen, and from some moment on go wrong."""
    faults_share = pick.uniform(0.02, 0.5)
    for _ in range(pick.randint(0, 30)):  # so that not all days end in the morning
        urgent = [choice for choice in world.choices() if choice[0] != "time passes"]
        if not urgent:
            return
        happens(world, pick.choice(urgent))
    for _ in range(pick.randint(5, 60)):
        choices = world.choices()
        if pick.random() < faults_share and (faults := world.faults()):
            kind = pick.choice(sorted({kind_of(fault) for fault in faults}))  # so that the many messages do not prevail
            choices = [fault for fault in faults if kind_of(fault) == kind]
        happens(world, pick.choice(choices))


def kind_of(fault: tuple) -> str:
    return fault[0].partition(":")[0]


def calm_down(world: World, pick: random.Random) -> None:
    """Nothing goes wrong any more: agents come back, messages arrive, and everything is done to the end."""
    for choice in list(world.comebacks()):
        happens(world, choice)
    for _ in range(1000):
        if world.settled:
            return
        urgent = [choice for choice in world.choices() if choice[0] != "time passes"]
        happens(world, pick.choice(urgent) if urgent else world.choices()[-1])
    raise AssertionError(f"not settled{story_of(world)}")


def look_at_the_end(world: World) -> None:
    """Never zero, nothing left over, and the truth told."""
    story = story_of(world)
    b_runs = world.b_qemu is not None and world.b_qemu.running
    if world.register is Decision.TAKEN:
        assert b_runs or "B's QEMU dies" in world.story, f"the VM was taken and does not run{story}"
    else:
        assert world.a_qemu.running or "A's QEMU dies" in world.story, f"nobody runs the VM{story}"
    assert isinstance(world.a, source.Ended)
    told = world.concluded[-1].outcome if world.concluded else world.a.ending.outcome
    assert (told is Outcome.COMPLETED) == (world.register is Decision.TAKEN), f"the outcome {told} is not true{story}"
    assert told is not Outcome.UNKNOWN, story
    assert told is not Outcome.CANCELLED or "the user cancels" in world.story, story
    # no leftovers: whoever does not run the VM has no QEMU
    assert world.b_qemu is None or world.b_qemu.alive == b_runs, f"a copy is left on B{story}"
    assert world.a_qemu.alive == world.a_qemu.running, f"a copy is left on A{story}"
    assert world.a_owns.offer is None, f"the offer stands for ever{story}"
    assert not world.saved, f"the saved state is left behind{story}"


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("seed", range(20))
def test_without_faults_the_vm_arrives(mode: Mode, seed: int) -> None:
    world = World(mode)
    calm_down(world, random.Random(seed))
    look_at_the_end(world)
    assert world.register is Decision.TAKEN
    assert [c.outcome for c in world.concluded] == [Outcome.COMPLETED]


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(list(Mode)), st.booleans(), st.randoms(use_true_random=False))
def test_never_two_never_zero(mode: Mode, earlier: bool, pick: random.Random) -> None:
    world = World(mode, earlier=earlier)
    bad_day(world, pick)
    calm_down(world, pick)
    look_at_the_end(world)


def test_after_a_move_that_failed_the_next_one_succeeds() -> None:
    moved_again = 0
    for seed in range(300):
        pick = random.Random(seed)
        world = World(pick.choice(list(Mode)))
        bad_day(world, pick)
        calm_down(world, pick)
        if not world.a_qemu.running:
            continue
        world.story.append("the VM is moved again")
        world.begin_move()
        calm_down(world, pick)
        look_at_the_end(world)
        assert world.register is Decision.TAKEN, story_of(world)
        moved_again += 1
    assert moved_again > 20
