from __future__ import annotations

from pathlib import Path

import pytest

from bascule.errors import Failed
from bascule.storage import access
from bascule.storage.access import Access, look, run_as


def test_odd_names_are_looked_at_and_not_interpreted(tmp_path: Path):
    odd = tmp_path / "a b\n$(touch x);'\"*"
    odd.write_text("")
    seen = look([odd, tmp_path, tmp_path / "none"])
    assert seen[0] == Access(
        odd, exists=True, is_regular=True, is_block_device=False, is_directory=False,
        readable=True, writable=True, searchable=False,
    )  # fmt: skip
    assert seen[1].is_directory
    assert seen[1].searchable
    assert seen[2] == Access(
        tmp_path / "none", exists=False, is_regular=False, is_block_device=False, is_directory=False,
        readable=False, writable=False, searchable=False,
    )  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_no_answer_is_a_failure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(access, "PATIENCE_S", 0.05)
    with pytest.raises(Failed, match=r"sleep gave no answer in 0 s"):
        run_as(None, ["sleep", "60"])


def test_a_missing_program_is_a_failure():
    with pytest.raises(Failed, match="cannot run bascule-no-such-program: No such file"):
        run_as(None, ["bascule-no-such-program"])
