"""The search: breadth first through all worlds, the rules looked at in each, the shortest story told of a violation."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.explorer import words
from tests.explorer.calm import calm_down
from tests.explorer.steps import Steps
from tests.explorer.world import Broken, World


@dataclass
class Found:
    """What a search found.

    `depth`: of the deepest world; `complete`: there are no more worlds. `worlds`: each with the one that it was first
    reached from.
    """

    steps: int = 0
    depth: int = 0
    complete: bool = True
    stories: list[str] = field(default_factory=list)
    worlds: dict[World, World | None] = field(default_factory=dict)


def search(
    steps: Steps,
    first: World,
    *,
    most_worlds: int | None = None,
    over: Callable[[], bool] = lambda: False,
    stop_at: int = 1,
) -> Found:
    """Search breadth first, until `stop_at` violations are found, there are `most_worlds` worlds, or it is `over`."""
    found = Found()
    worlds = found.worlds
    worlds[first] = None
    layer: deque[World] = deque([first])
    while layer:
        next_layer: deque[World] = deque()
        for world in layer:
            if over():
                found.complete = False
                return found
            for cost, what in steps.choices(world):
                found.steps += 1
                try:
                    then = steps.after(world, cost, what)
                except Broken as broken:
                    found.stories.append(words.story(steps, worlds, world, what, str(broken)))
                    if len(found.stories) >= stop_at:
                        found.complete = False
                        return found
                    continue
                if then not in worlds:
                    if most_worlds is not None and len(worlds) >= most_worlds:
                        found.complete = False
                        continue
                    worlds[then] = world
                    next_layer.append(then)
        layer = next_layer
        found.depth += bool(layer)
    return found


def ends(steps: Steps, found: Found, sample: int, seed: int = 0) -> list[str]:
    """Calm down from a sample of the worlds, each in an order of its own; return the stories that end badly."""
    pick = random.Random(seed)
    worlds = list(found.worlds)
    stories = []
    for world in worlds if len(worlds) <= sample else pick.sample(worlds, sample):
        told: list[str] = []
        try:
            calm_down(steps, world, pick, told)
        except Broken as broken:
            way = words.way_to(steps, found.worlds, world)
            stories.append(words.tale(str(broken), [*way, "From here on nothing goes wrong any more.", *told]))
    return stories
