"""Which frames pass a card's filter."""

from __future__ import annotations

from typing import Any

import pytest

from bascule.qemu.rx_filter import RxFilter

OWN = "52:54:00:12:34:56"
OTHER = "52:54:00:12:34:57"
ALL_NODES = "33:33:00:00:00:01"
OTHER_GROUP = "33:33:00:00:00:02"
ANSWER = {
    "name": "nic0",
    "promiscuous": False,
    "broadcast-allowed": False,
    "main-mac": OWN,
    "unicast": "normal",
    "unicast-overflow": False,
    "unicast-table": [],
    "multicast": "normal",
    "multicast-overflow": False,
    "multicast-table": ["01:00:5e:00:00:01", ALL_NODES],
    "vlan": "none",
    "vlan-table": [],
}


def passes(to: str, tagged: int | None = None, **differs: Any) -> bool:
    tag = b"" if tagged is None else b"\x81\x00" + (0xE000 | tagged).to_bytes(2, "big")
    frame = bytes.fromhex(to.replace(":", "")) + bytes(6) + tag + b"\x08\x00" + bytes(46)
    return RxFilter.from_answer(ANSWER | differs).passes(frame)


def test_what_a_linux_guest_asks_for() -> None:
    assert passes(OWN)
    assert passes("ff:ff:ff:ff:ff:ff"), "QEMU says the contrary of what it does"
    assert passes(ALL_NODES)
    assert not passes(OTHER_GROUP)
    assert not passes(OTHER)
    assert not passes(OWN, tagged=7)


@pytest.mark.parametrize(
    ("differs", "to", "tagged", "expected"),
    [
        ({"promiscuous": True}, OTHER, 7, True),
        ({"unicast-table": [OTHER]}, OTHER, None, True),
        ({"unicast-overflow": True}, OTHER, None, True),
        ({"unicast": "all"}, OTHER, None, True),
        ({"unicast": "none"}, OWN, None, False),
        ({"multicast": "all"}, OTHER_GROUP, None, True),
        ({"multicast-overflow": True}, OTHER_GROUP, None, True),
        ({"multicast": "none"}, ALL_NODES, None, False),
        ({"multicast": "none"}, OWN, None, True),
        ({"vlan": "normal", "vlan-table": [7]}, OWN, 7, True),
        ({"vlan": "normal", "vlan-table": [7]}, OWN, 8, False),
        ({"vlan": "all"}, OWN, 8, True),
    ],
)
def test_what_else_it_may_ask_for(differs: dict[str, Any], to: str, tagged: int | None, expected: bool) -> None:
    assert passes(to, tagged, **differs) is expected


def test_an_answer_that_does_not_say_all_is_refused() -> None:
    with pytest.raises(LookupError):
        RxFilter.from_answer({"name": "nic0", "promiscuous": False})
