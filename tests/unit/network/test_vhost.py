"""Opening vhost-net, or not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bascule.errors import Failed
from bascule.network import vhost


def test_it_is_opened_once_for_each_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhost, "VHOST_NET", Path("/dev/null"))
    opened = vhost.open_vhost(3)
    assert len({each.fileno() for each in opened}) == 3
    assert vhost.has_vhost(os.getpid())
    for each in opened:
        each.close()


def test_a_host_without_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vhost, "VHOST_NET", tmp_path / "vhost-net")
    with pytest.raises(Failed, match="vhost-net is not to be had"):
        vhost.open_vhost(1)
    assert not vhost.has_vhost(os.getpid())


def test_a_process_that_is_gone_has_none() -> None:
    assert not vhost.has_vhost(1 << 30)
