"""A world in which nothing goes wrong any more: agents come back, messages arrive, and all is done to the end.

This is what the rules promise of the end: whatever has happened, a world that is left in peace comes to rest, and to a
good one.
"""

from __future__ import annotations

import random

from tests.explorer import words
from tests.explorer.happenings import FREE, Happening, early_answers, operators, times
from tests.explorer.rules import look_at_the_end
from tests.explorer.steps import Steps
from tests.explorer.world import Broken, World

PASSING = ("time", "answers")
NEVER = ("never sent", "begins")
MOST_STEPS = 3000


def calm_down(steps: Steps, world: World, pick: random.Random, told: list[str], *, helped: bool = True) -> World:
    """Let everything be done, in an order that `pick` finds, and look at the end. What is done is added to `told`.

    `helped`: an operator does what `bascule status` says where nothing else can help. Raises Broken.
    """
    seen: set[World] = set()
    patience = 0
    for _ in range(MOST_STEPS):
        draft = steps.draft(world)
        urgent = [what for cost, what in steps.choices(world) if cost == FREE and what[0] not in (*PASSING, *NEVER)]
        passing = [*(time for me in (0, 1) for time in times(draft, me) if draft.host(me).up), *early_answers(draft)]
        if urgent:
            world = _after(steps, world, pick.choice(urgent), told)
            continue
        if passing and patience < 12:
            patience = patience + 1 if world in seen else 0
            seen.add(world)
            world = _after(steps, world, pick.choice(passing), told)
            continue
        starts = [what for what in operators(draft, lies=False) if what[0] == "starts anew"]
        if helped and starts and any(host.engines for host in draft.hosts):
            look_at_the_end(draft, lies=steps.lies)
            world, patience = _after(steps, world, starts[0], told), 0
            seen.clear()
            continue
        look_at_the_end(draft, lies=steps.lies)
        return world
    raise Broken("it does not come to rest")


def _after(steps: Steps, world: World, what: Happening, told: list[str]) -> World:
    told.append(words.sentence(steps.draft(world), what))
    return steps.after(world, FREE, what)
