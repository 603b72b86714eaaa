"""What needs no bridge; the rest is in tests/lab/test_taps.py."""

from __future__ import annotations

import pytest

from bascule.errors import Refused
from bascule.network.bridge import check_bridge, exists, read_bridge, sightings


def test_a_missing_bridge_is_named_with_its_remedy():
    assert not exists("bscnone0")
    with pytest.raises(Refused, match="no bridge bscnone0 on this host"):
        read_bridge("bscnone0")
    with pytest.raises(Refused):
        sightings("bscnone0", "52:54:00:12:34:56")
    (finding,) = check_bridge("bscnone0")
    assert finding.subject == "bridge bscnone0"
    assert "ip link add bscnone0 type bridge" in finding.remedy


def test_the_loopback_device_is_no_bridge():
    assert not exists("lo")
    (finding,) = check_bridge("lo")
    assert "lo is no bridge" in finding.problem
