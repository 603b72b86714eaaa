"""A case as text and back, and what is no case."""

import pytest

from bascule.errors import Refused
from bascule.lab.faults.case import Case, Fault, Kind, Side, Target
from bascule.lab.faults.schedule import random_case
from bascule.migration.model import Mode


def test_a_case_is_one_line_of_text() -> None:
    case = Case.parse("live: kill agent@source switching-over+3.5 for 1000; cancel move@source copying+10")
    assert case.mode is Mode.LIVE
    assert case.faults == (
        Fault(Kind.KILL, Target.AGENT, Side.SOURCE, "switching-over", 3.5, 1000),
        Fault(Kind.CANCEL, Target.MOVE, Side.SOURCE, "copying", 10),
    )


@pytest.mark.parametrize("number", range(50))
def test_every_case_can_be_repeated_from_its_line(number: int) -> None:
    case = random_case(3, number)
    assert Case.parse(str(case), case.name) == case


@pytest.mark.parametrize(
    "text",
    [
        "kill agent@source copying+1",
        "slow: kill agent@source copying+1",
        "live: kill everything@source copying+1",
        "live: maim agent@source copying+1",
        "live: kill agent@source sleeping+1",
        "live: kill agent@home copying+1",
        "live: kill agent@source copying",
    ],
)
def test_what_is_no_case_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        Case.parse(text)
