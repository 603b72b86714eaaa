"""The short set: every kind of fault on either side once, some schedules at random. bench/faults has the long one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bascule.lab.faults.case import Case
from bascule.lab.faults.result import Result
from bascule.lab.faults.schedule import short

pytestmark = pytest.mark.lab

SEED = 1


@pytest.mark.parametrize("case", short(SEED), ids=str)
def test_whatever_dies_or_hangs(run: Callable[[Case], Result], case: Case) -> None:
    """Never two copies, one unless the only one was killed, memory and disk whole, all words true, nothing left."""
    result = run(case)
    assert not result.findings, "\n" + result.story()
