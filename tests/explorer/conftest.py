"""The searches that several tests look at are made once, with one core."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from tests.explorer.core import Core
from tests.explorer.search import Found, search
from tests.explorer.steps import Steps
from tests.explorer.world import Budget

from bascule.migration.model import Mode

Explore = Callable[[Mode, Budget], tuple[Steps, Found]]


@pytest.fixture(scope="session")
def core() -> Core:
    return Core()


@pytest.fixture(scope="session")
def explore(core: Core) -> Explore:
    """Search all worlds of one move."""

    @cache
    def explored(mode: Mode, budget: Budget) -> tuple[Steps, Found]:
        steps = Steps(core, mode)
        return steps, search(steps, steps.space.first(mode, budget))

    return explored
