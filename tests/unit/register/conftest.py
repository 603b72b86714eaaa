"""One fixture for each kind of promise: every store, those that are durable, those that forget."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.register.stores import DURABLE, FORGETFUL, STORES, DurableStore, ForgetfulStore, Store


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with STORES[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture(params=DURABLE)
async def durable(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DurableStore]:
    async with STORES[request.param](tmp_path) as opened:
        yield opened  # type: ignore[misc]


@pytest.fixture(params=FORGETFUL)
async def forgetful(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ForgetfulStore]:
    async with STORES[request.param](tmp_path) as opened:
        yield opened  # type: ignore[misc]
