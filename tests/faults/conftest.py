"""One lab for many cases: the guest boots once, and goes on from case to case as long as nothing is wrong."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from bascule.lab.faults.case import Case
from bascule.lab.faults.ground import Ground
from bascule.lab.faults.result import Result
from bascule.lab.laboratory import Lab
from bascule.lab.removal import find_remains

_numbers = itertools.count(1)


def new_name() -> str:
    return f"t{os.getpid()}-f{next(_numbers)}"


@pytest.fixture
def names() -> Iterator[Callable[[], str]]:
    """Give names of labs; after the test, nothing of these labs may be left."""
    given: list[str] = []

    def give() -> str:
        given.append(new_name())
        return given[-1]

    yield give
    assert not {name: remains for name in given if (remains := _remains(name))}


def _remains(name: str) -> object:
    remains = find_remains(name)
    if remains:
        Lab(name).down()
    return remains


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Case], Result]]:
    """Try a case: `run(case)`. After one that failed, the next gets a fresh lab."""
    grounds: list[Ground] = []
    open_ones: list[Ground] = []

    def try_case(case: Case) -> Result:
        if open_ones and open_ones[-1].spoilt:
            open_ones.pop().__exit__(None, None, None)
        if not open_ones:
            ground = Ground(new_name())
            grounds.append(ground)
            open_ones.append(ground.__enter__())
        return open_ones[-1].run(case)

    yield try_case
    for ground in open_ones:
        ground.__exit__(None, None, None)
    assert not [ground.lab.name for ground in grounds if _remains(ground.lab.name)]
