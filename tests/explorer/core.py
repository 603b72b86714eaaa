"""The real engine as the explorer uses it: each distinct thing is a small number, and each step of it is taken once.

Numbers make a world a tuple of small integers, which hashes fast. Times are taken out: a state remembers only whether
something waits to be tried again, and whether a patience began lately or longer ago than any patience lasts. Sentences
are taken out as well, since nothing depends on them, and so is the steering: here QEMU may stop the VM for the
switchover whenever it likes, which is more than any downtime limit allows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from bascule.migration import commands as do
from bascule.migration import destination, facts, source, source_ending
from bascule.migration.convergence import Steering
from bascule.migration.ownership import Ownership, why_not_run
from bascule.migration.register import settle

LONG_AGO_S = -1e6
DUE = ("try_again_s", "ask_again_s", "ask_source_s")  # if set, due at the next tick
SINCE = ("started_s", "stopped_s", "since_s", "word_s")  # 0: lately; or longer ago than any patience
SAID = ("reason", "failure", "why", "gone")
CALM = Steering(100.0, 15.0)
RUN_TRIES = max(source_ending.RUN_TRIES, destination.RUN_TRIES)
# What changes nothing in this world: the announcements are the network's, the limit is the steering's.
WITHOUT_EFFECT = (do.SetDowntimeLimit, do.AnnounceHere, do.TellStopped)


@dataclass(frozen=True)
class Cont:
    """Of `RunVcpus` on the destination: the gate has seen nothing against it, and QEMU is told."""


Step = Callable[[Any, Any, float], tuple[Any, tuple[Any, ...]]]
Gate = Callable[[Ownership | None, str], str | None]


class Numbers:
    """Gives each distinct thing a number."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._things: list[Any] = []

    def of(self, thing: Hashable) -> int:
        """Return the number of a thing."""
        number = self._numbers.get(thing)
        if number is None:
            number = self._numbers[thing] = len(self._things)
            self._things.append(thing)
        return number

    def __getitem__(self, number: int) -> Any:
        return self._things[number]

    def __len__(self) -> int:
        return len(self._things)


@dataclass
class Core:
    """What decides: engines, gate, register, and what is made of marks and of claims. A mutant changes one of them."""

    source_step: Step = source.step
    destination_step: Step = destination.step
    gate: Gate = why_not_run
    settle: Callable[..., Any] = settle
    marks_count: bool = True
    claims_age: bool = True
    engines: Numbers = field(default_factory=Numbers)
    commands: Numbers = field(default_factory=Numbers)
    walked: set[tuple[type, type]] = field(default_factory=set)
    _steps: dict[tuple[str, int, Any], tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    def step(self, side: str, state: int, fact: Any) -> tuple[int, tuple[int, ...]]:
        """Advance an engine; return its state and the commands that have an effect here."""
        key = (side, state, fact)
        known = self._steps.get(key)
        if known is None:
            before = self.engines[state]
            step = self.source_step if side == "source" else self.destination_step
            after, commands = step(before, fact, 0.0)
            self._check(before, after, fact)
            known = self._steps[key] = self.took(after, commands)
        return known

    def took(self, state: Any, commands: tuple[Any, ...]) -> tuple[int, tuple[int, ...]]:
        """Return the numbers of a state and of the commands that come with it."""
        live = state.move.mode.value == "live"
        kept = (c for c in commands if not isinstance(c, WITHOUT_EFFECT))
        kept = (c for c in kept if not (live and isinstance(c, do.RemoveSavedState)))
        return self.engines.of(bare(state)), tuple(self.commands.of(bare(c)) for c in kept)

    def question(self, command: int) -> tuple[str, Any] | None:
        """Return the question to the other agent that a command is: its kind, and the fact that it is there."""
        match self.commands[command]:
            case do.PrepareDestination():
                return "prepare", None
            case do.AskTake(state_file=state_file, last_copy=last_copy):
                return "take", facts.TakeAsked(state_file, last_copy)
            case do.AskRefuse():
                return "refuse", facts.RefuseAsked("")
            case do.AskSource():
                return "offer", None
            case _:
                return None

    def runs(self, command: int) -> bool:
        """Whether a command is to let the vCPUs run. What it comes to is waited for before QEMU's end is judged."""
        return isinstance(self.commands[command], do.RunVcpus | Cont)

    def aged(self, state: int) -> int:
        """Return the state after a time longer than any patience."""
        before = self.engines[state]
        changes = {name: LONG_AGO_S for name in SINCE if getattr(before, name, None) is not None}
        return self.engines.of(replace(before, **changes)) if changes else state

    def _check(self, before: Any, after: Any, fact: Any) -> None:
        if type(before) is type(after):
            return
        legal = (source.SUCCESSORS | destination.SUCCESSORS)[type(before)]
        if type(after) in legal:
            self.walked.add((type(before), type(after)))
            return
        assert isinstance(fact, facts.StoodDown), f"{before} may not become {after} on {fact}"


def bare(thing: Any) -> Any:
    """Return a state or a command without times and sentences."""
    changes: dict[str, Any] = {}
    for each in fields(thing):
        value = getattr(thing, each.name)
        if each.name in DUE and value is not None:
            changes[each.name] = 0.0
        elif each.name in SINCE and value is not None:
            changes[each.name] = LONG_AGO_S if value < 0 else 0.0
        elif each.name in SAID and isinstance(value, str):
            changes[each.name] = "-" if each.name == "gone" else ""
        elif isinstance(value, source.Ending):
            changes[each.name] = replace(value, reason="")
        elif isinstance(value, Steering):
            changes[each.name] = CALM
        elif each.name == "address":
            changes[each.name] = "there"
        elif each.name == "state_file" and value is not None:
            changes[each.name] = "file"
        elif each.name == "limit_ms":
            changes[each.name] = 1
        elif each.name == "failures":
            changes[each.name] = min(value, RUN_TRIES)  # more of them change nothing more
    return replace(thing, **changes) if changes else thing
