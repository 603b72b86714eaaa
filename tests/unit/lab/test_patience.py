"""A lab's patience, as the environment has it."""

from __future__ import annotations

import pytest

from bascule.lab.patience import VARIABLE, patience


@pytest.mark.parametrize(("said", "factor"), [(None, 1), ("10", 10), ("2.5", 2.5), ("0", 1), ("much", 1)])
def test_a_factor_of_one_or_more(monkeypatch: pytest.MonkeyPatch, said: str | None, factor: float) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if said is not None:
        monkeypatch.setenv(VARIABLE, said)
    assert patience() == factor
