from __future__ import annotations

from bascule.lab.removal import Remains


def test_nothing_is_nothing():
    assert not Remains()
    assert Remains().lines() == []


def test_what_was_removed_is_said_by_kind():
    remains = Remains(processes=["1 (a)", "2 (b)"], directories=["/d"])
    assert remains
    assert remains.lines() == ["2 processes: 1 (a), 2 (b)", "1 directory: /d"]
