"""One step from a world to the next, with the rules looked at; each kind of step is worked out once.

What happens on a host mostly depends on that host alone. So a step is remembered by the happening and the parts of the
world at which it looked, and costs but a look-up in all other worlds that have these parts.
"""

from __future__ import annotations

from tests.explorer import rules
from tests.explorer.core import Core
from tests.explorer.happenings import MENU, TAKES_ITS_MESSAGE, Happening, of_hosts, of_messages
from tests.explorer.shell_destination import look_after
from tests.explorer.world import Broken, Budget, Draft, Space, World

from bascule.migration.model import Mode

Effect = tuple[int, int, int, tuple[int, ...]]  # the hosts, the rest, the messages sent


class Steps:
    """The steps of the worlds of one mode. `most_moves`: after its first move the VM is moved on, back or again."""

    def __init__(self, core: Core, mode: Mode, *, most_moves: int = 1, lies: bool = False) -> None:
        self.space = Space(core)
        self.mode, self.most_moves, self.lies = mode, most_moves, lies
        self._by_host: tuple[dict[tuple[Happening, int, int], tuple[int, int, tuple[int, ...]] | None], ...] = ({}, {})
        self._by_hosts: dict[tuple[Happening, int, int, int], Effect | Broken] = {}
        self._menus: dict[tuple[int, int, int, bool, bool, bool], tuple[tuple[int, Happening], ...]] = {}
        self._looked_at: dict[tuple[int, int, int], Broken | None] = {}

    def draft(self, world: World) -> Draft:
        """Return a draft of a world."""
        x, y, net, rest, _ = world
        space = self.space
        return Draft(space, (space.hosts[x], space.hosts[y]), space.rests[rest], net)

    def choices(self, world: World) -> list[tuple[int, Happening]]:
        """Return everything that may happen, with what it costs."""
        x, y, _, rest, left = world
        budget: Budget = self.space.budgets[left]
        key = (x, y, rest, budget.faults > 0, budget.cancels > 0, budget.operators > 0)
        draft = self.draft(world)
        menu = self._menus.get(key)
        if menu is None:
            found = of_hosts(draft, budget, lies=self.lies, mode=self.mode, most_moves=self.most_moves)
            menu = self._menus[key] = tuple(found)
        return [*menu, *of_messages(draft, budget)]

    def after(self, world: World, cost: int, what: Happening) -> World:
        """Let something happen. Raises Broken if a rule is broken by it."""
        x, y, net, rest, left = world
        for me, own in ((0, x), (1, y)):
            known = self._by_host[me].get((what, own, rest))
            if known is not None:
                after, rest, sent = known
                x, y = (after, y) if me == 0 else (x, after)
                break
        else:
            x, y, rest, sent = self._effect(world, what)
        self._look(x, y, rest)
        removed = what[1] if what[0] in TAKES_ITS_MESSAGE else None
        if sent or removed is not None:
            net = self.space.changed_net(net, removed, sent)
        return x, y, net, rest, self._spent(left, cost) if cost else left

    def _effect(self, world: World, what: Happening) -> Effect:
        x, y, _, rest, _ = world
        key = (what, x, y, rest)
        known = self._by_hosts.get(key)
        if known is None:
            draft = self.draft(world)
            try:
                MENU[what[0]](draft, *what[1:])
                for me in (0, 1):
                    if draft.touched & 1 << me and draft.hosts[me].engines:
                        for number, _ in draft.hosts[me].engines:
                            if not draft.is_source(me, number):
                                look_after(draft, me, number)
                known = self._frozen(draft)
            except Broken as broken:
                known = broken
            if draft.touched in (1, 2) and not isinstance(known, Broken):
                me = draft.touched - 1
                self._by_host[me][what, (x, y)[me], rest] = (known[me], known[2], known[3])
            elif not draft.touched & 4:
                self._by_hosts[key] = known
        if isinstance(known, Broken):
            raise known
        return known

    def _frozen(self, draft: Draft) -> Effect:
        space = self.space
        x, y = (space.hosts.of(host) for host in draft.hosts)
        return x, y, space.rests.of(draft.rest), draft.sent

    def _look(self, x: int, y: int, rest: int) -> None:
        key = (x, y, rest)
        if key not in self._looked_at:
            space = self.space
            draft = Draft(space, (space.hosts[x], space.hosts[y]), space.rests[rest])
            try:
                rules.look(draft, lies=self.lies)
                self._looked_at[key] = None
            except Broken as broken:
                self._looked_at[key] = broken
        broken_before = self._looked_at[key]
        if broken_before is not None:
            raise broken_before

    def _spent(self, left: int, cost: int) -> int:
        budget = list(self.space.budgets[left])
        budget[cost - 1] -= 1
        return self.space.budgets.of(Budget(*budget))
