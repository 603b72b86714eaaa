"""Cases by a seed: the same seed gives the same cases, on any machine.

`systematic` has every kind of fault at every target on both sides in every phase of both modes once, in an order that
the seed shuffles; `random_case` combines several, cancels among them, and hits agents again while they recover.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from bascule.lab.faults.case import PHASES_OF, RECOVERY, Case, Fault, Kind, Side, Target
from bascule.migration.model import Mode

# How long a phase is about, in ms: a fault meets it somewhere in this span.
SPANS_MS: dict[str, float] = {
    "checking": 120,
    "preparing": 250,
    "offering": 1.5,
    "copying": 600,
    "saving": 500,
    "switching-over": 25,
    "deciding": 8,
    "releasing": 60,
    "ended": 100,
    "cancelling": 15,
    "withdrawing": 15,
    "resuming": 10,
    RECOVERY: 1800,
}
_TARGETS: dict[Kind, tuple[Target, ...]] = {
    Kind.KILL: (Target.QEMU, Target.AGENT, Target.BOTH, Target.HOST),
    Kind.FREEZE: (Target.QEMU, Target.AGENT, Target.BOTH, Target.HOST),
    Kind.CUT: (Target.LINK,),
    Kind.BLACK_HOLE: (Target.LINK,),
}
# A supervisor starts an agent again after a second; a host comes back later than that, and links and hung processes do
# when they like. Some outlast the patience of whoever waits for them.
_LASTS_MS: dict[Kind, tuple[int, ...]] = {
    Kind.KILL: (100, 100, 1000, 1000, 1000, 3000, 20000),
    Kind.FREEZE: (300, 300, 1500, 1500, 4000, 12000, 20000),
    Kind.CUT: (500, 2000, 6000, 20000),
    Kind.BLACK_HOLE: (500, 2000, 6000, 20000),
}
_CANCELLED_IN = {
    Mode.LIVE: ("preparing", "copying", "copying", "switching-over", "deciding"),
    Mode.QUICK: ("preparing", "saving", "saving", "deciding"),
}
# What the short set has in any case: the switchover's own crash points.
_ALWAYS = (
    "live: kill agent@source switching-over+2 for 1000",
    "live: kill agent@destination deciding+1 for 1000",
    "live: kill qemu@destination switching-over+2",
    "live: freeze qemu@source switching-over+1 for 1500",
    "quick: kill qemu@destination deciding+100",
    "live: kill both@destination deciding+4.3 for 1000; kill host@source deciding+5.3 for 100",
)


def systematic(seed: int, *, longest_ms: int | None = None) -> Iterator[Case]:
    """Every single fault in every phase, shuffled. `longest_ms` leaves out faults that last longer."""
    rng = random.Random(seed)  # noqa: S311 - a schedule that can be repeated, no secret
    singles = [
        (mode, kind, target, side, phase)
        for mode in Mode
        for phase in PHASES_OF[mode]
        for kind, targets in _TARGETS.items()
        for target in targets
        for side in Side
    ]
    rng.shuffle(singles)
    for number, (mode, kind, target, side, phase) in enumerate(singles):
        fault = _lasting(rng, Fault(kind, target, side, phase, _offset_ms(rng, phase)), longest_ms)
        yield Case(mode, (fault,), f"seed {seed} single {number}")


def short(seed: int, *, longest_ms: int = 1500, at_random: int = 5) -> list[Case]:
    """The switchover's own crash points; each kind of fault at each target on each side once, spread over the phases of
    both modes; and some at random.
    """
    chosen: dict[tuple[Kind, Target, Side], Case] = {}
    met: set[tuple[Mode, str]] = set()
    singles = list(systematic(seed, longest_ms=longest_ms))
    for fresh in (True, False):  # first what meets a phase that none has met
        for case in singles:
            fault = case.faults[0]
            key, moment = (fault.kind, fault.target, fault.side), (case.mode, fault.phase)
            if key not in chosen and (moment not in met) == fresh:
                chosen[key] = case
                met.add(moment)
    always = [Case.parse(text, "short set") for text in _ALWAYS]
    return [
        *always,
        *chosen.values(),
        *(random_case(seed, number, longest_ms=longest_ms) for number in range(at_random)),
    ]


def random_cases(seed: int, *, longest_ms: int | None = None) -> Iterator[Case]:
    """Several faults at once, for ever."""
    number = 0
    while True:
        yield random_case(seed, number, longest_ms=longest_ms)
        number += 1


def random_case(seed: int, number: int, *, longest_ms: int | None = None) -> Case:
    """Case `number` of the random ones."""
    rng = random.Random(f"{seed}/{number}")  # noqa: S311 - a schedule that can be repeated, no secret
    mode = rng.choice((Mode.LIVE, Mode.LIVE, Mode.QUICK))
    faults = [_fault(rng, mode, longest_ms) for _ in range(rng.choice((1, 2, 2, 3)))]
    if rng.random() < 0.25:  # a user gives up, and the faults meet what follows
        phase = rng.choice(_CANCELLED_IN[mode])
        wish = Fault(Kind.CANCEL, Target.MOVE, Side.SOURCE, phase, _offset_ms(rng, phase))
        faults.append(wish)
        if rng.random() < 0.6:
            back = rng.choice(("cancelling", "withdrawing", "resuming"))
            faults[0] = _fault(rng, mode, longest_ms, back)
    if rng.random() < 0.3:  # the recovery is met as well
        faults.append(_agent_killed(rng, _phase(rng, mode), longest_ms))
        faults.append(_fault(rng, mode, longest_ms, RECOVERY))
    return Case(mode, tuple(faults), f"seed {seed} random {number}")


def _fault(rng: random.Random, mode: Mode, longest_ms: int | None, phase: str | None = None) -> Fault:
    kind = rng.choices(tuple(_TARGETS), (5, 4, 1, 2))[0]
    target, side = rng.choice(_TARGETS[kind]), rng.choice(tuple(Side))
    phase = phase or _phase(rng, mode)
    return _lasting(rng, Fault(kind, target, side, phase, _offset_ms(rng, phase)), longest_ms)


def _agent_killed(rng: random.Random, phase: str, longest_ms: int | None) -> Fault:
    fault = Fault(Kind.KILL, Target.AGENT, rng.choice(tuple(Side)), phase, _offset_ms(rng, phase))
    return _lasting(rng, fault, longest_ms)


def _phase(rng: random.Random, mode: Mode) -> str:
    """Around the decision more often than elsewhere: there is the most to go wrong."""
    phases = PHASES_OF[mode]
    weights = [3 if phase in ("switching-over", "deciding", "saving", "releasing") else 1 for phase in phases]
    return rng.choices(phases, weights)[0]


def _offset_ms(rng: random.Random, phase: str) -> float:
    return round(rng.uniform(0, SPANS_MS[phase]), 1)


def _lasting(rng: random.Random, fault: Fault, longest_ms: int | None) -> Fault:
    lasts_ms = rng.choice([ms for ms in _LASTS_MS[fault.kind] if longest_ms is None or ms <= longest_ms])
    return fault if fault.is_final else replace(fault, lasts_ms=lasts_ms)
