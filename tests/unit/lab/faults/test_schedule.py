"""The same seed gives the same cases, and together they leave nothing out."""

from itertools import islice

from bascule.lab.faults.case import PHASES_OF, RECOVERY, Kind, Side, Target
from bascule.lab.faults.schedule import random_case, random_cases, short, systematic
from bascule.migration.model import Mode

TARGETS = {(Kind.KILL, target) for target in Target if target not in (Target.LINK, Target.MOVE)}
TARGETS |= {(Kind.FREEZE, target) for _, target in TARGETS} | {(Kind.CUT, Target.LINK), (Kind.BLACK_HOLE, Target.LINK)}


def test_every_single_fault_is_there_once_in_an_order_by_the_seed() -> None:
    cases = list(systematic(1))
    met = [(c.mode, f.kind, f.target, f.side, f.phase) for c in cases for f in c.faults]
    wanted = {
        (mode, kind, target, side, phase)
        for mode in Mode
        for phase in PHASES_OF[mode]
        for kind, target in TARGETS
        for side in Side
    }
    assert sorted(met) == sorted(wanted)
    assert list(systematic(1)) == cases
    assert list(systematic(2)) != cases


def test_random_cases_go_by_their_number() -> None:
    first = list(islice(random_cases(5), 20))
    assert [random_case(5, number) for number in range(20)] == first
    assert random_case(6, 0) != first[0]


def test_random_cases_have_everything() -> None:
    cases = [random_case(1, number) for number in range(400)]
    faults = [fault for case in cases for fault in case.faults]
    assert {(f.kind, f.target) for f in faults} == TARGETS | {(Kind.CANCEL, Target.MOVE)}
    assert {f.phase for f in faults} >= {*PHASES_OF[Mode.LIVE], *PHASES_OF[Mode.QUICK], RECOVERY, "cancelling"}
    assert max(len(case.faults) for case in cases) >= 4


def test_the_short_set_has_each_fault_on_each_side_and_lasts_short() -> None:
    cases = short(1)
    faults = [fault for case in cases for fault in case.faults]
    assert {(f.kind, f.target, f.side) for f in faults} >= {(*what, side) for what in TARGETS for side in Side}
    assert {(case.mode, case.faults[0].phase) for case in cases} >= {
        (mode, phase) for mode in Mode for phase in PHASES_OF[mode] if phase not in ("checking", "ended")
    }
    assert max(fault.lasts_ms for fault in faults) <= 1500
