"""Seeded bugs: cores in which one thing is wrong, each with the smallest budget with which its bug shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tests.explorer.core import Core
from tests.explorer.world import Budget

from bascule.migration import commands as do
from bascule.migration import destination, facts, source
from bascule.migration.model import Decision, Mode, Outcome
from bascule.migration.register import Ballot, Entry
from bascule.migration.source_ending import DECISION_PATIENCE_S

Step = tuple[Any, tuple[Any, ...]]
NOBODY_FORBIDS: Callable[..., None] = lambda _ownership, _host: None  # noqa: E731 - a gate that stands open


NOTHING = Budget()


@dataclass(frozen=True)
class Mutant:
    """What makes it, and with what its bug shows."""

    core: Callable[[], Core]
    budget: Budget = NOTHING
    moves: int = 1


def runs_before_it_journals(state: Any, fact: Any, now: float) -> Step:
    """The destination lets the VM run before `taken` is durable."""
    after, commands = destination.step(state, fact, now)
    early = (do.RunVcpus(),) if do.Decide(Decision.TAKEN) in commands else ()
    return after, (*early, *commands)


def resumes_on_a_timeout(state: Any, fact: Any, now: float) -> Step:
    """The source lets the VM run on when the destination has been silent for long."""
    if (
        isinstance(state, source.Deciding)
        and isinstance(fact, facts.Tick)
        and now - state.since_s > DECISION_PATIENCE_S
    ):
        ending = source.Ending(Outcome.FAILED, "the destination does not answer")
        return source.Resuming(state.move, ending), (do.JournalWithdrawal(),)
    return source.step(state, fact, now)


def offers_too_late(state: Any, fact: Any, now: float) -> Step:
    """The source starts the copy before its offer is durable."""
    after, commands = source.step(state, fact, now)
    if do.JournalOffer() in commands and after.move.mode is Mode.LIVE:
        return after, (do.StartCopy(after.address), *commands)
    return after, tuple(command for command in commands if not isinstance(command, do.StartCopy))


def destroys_on_taken(state: Any, fact: Any, now: float) -> Step:
    """The source destroys its copy when the VM is taken, without waiting until it runs."""
    taken = isinstance(fact, facts.Answer) and fact.decision is Decision.TAKEN and not fact.given_back
    if taken and isinstance(state, source.Deciding):
        return source.Releasing(state.move), (do.DestroySource(),)
    return source.step(state, fact, now)


def gives_back_to_nobody(state: Any, fact: Any, now: float) -> Step:
    """The destination gives back what QEMU refuses to run, whether or not the source still has its copy."""
    after, commands = destination.step(state, fact, now)
    if isinstance(after, destination.Starting) and after.never >= destination.RUN_TRIES:
        return destination.Returning(after.move, after.failure), (do.GiveBack(),)
    return after, commands


def lets_go_too_early(state: Any, fact: Any, now: float) -> Step:
    """A source whose copy is dead lets go of a VM that was taken and does not run, though it may be given back."""
    if isinstance(fact, facts.Answer) and fact.decision is Decision.TAKEN and not fact.running and not fact.given_back:
        fact = replace(fact, ended=True)
    return source.step(state, fact, now)


def overwrites(entries: Mapping[Any, Entry], ballot: Ballot, value: Decision) -> tuple[Mapping[Any, Entry], Decision]:
    """The register holds what was written last."""
    return {**entries, (ballot.vm_uuid, ballot.epoch): Entry(value, ballot.move_id)}, value


ONE_FAULT, TWO_FAULTS = Budget(faults=1), Budget(faults=2)
MUTANTS = {
    "runs-before-it-journals": Mutant(lambda: Core(destination_step=runs_before_it_journals, gate=NOBODY_FORBIDS)),
    "resumes-on-a-timeout": Mutant(lambda: Core(source_step=resumes_on_a_timeout)),
    "offers-too-late": Mutant(lambda: Core(source_step=offers_too_late), ONE_FAULT),
    "destroys-on-taken": Mutant(lambda: Core(source_step=destroys_on_taken), ONE_FAULT),
    "register-overwrites": Mutant(lambda: Core(settle=overwrites), ONE_FAULT),
    "marks-ignored": Mutant(lambda: Core(marks_count=False), ONE_FAULT),
    "gives-back-to-nobody": Mutant(lambda: Core(destination_step=gives_back_to_nobody), TWO_FAULTS),
    "lets-go-too-early": Mutant(lambda: Core(source_step=lets_go_too_early), TWO_FAULTS),
    "claims-do-not-age": Mutant(lambda: Core(claims_age=False), Budget(faults=1, operators=1), moves=2),
}
