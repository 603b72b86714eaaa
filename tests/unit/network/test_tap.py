from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bascule.errors import Refused
from bascule.network.tap import INTERFACE_NAME_BYTES, Tap, tap_name

UUID = "3f1c2b6e-6a55-4a2e-9c1f-0d5b8f6f9b11"


@given(uuid=st.uuids(), nic=st.integers(0, 99))
def test_names_fit_the_kernel(uuid: object, nic: int):
    name = tap_name(str(uuid), nic)
    assert len(name.encode()) <= INTERFACE_NAME_BYTES
    assert name.isalnum()


def test_names_are_stable_and_tell_vms_and_nics_apart():
    assert tap_name(UUID, 0) == tap_name(UUID.upper(), 0)
    assert len({tap_name(UUID, 0), tap_name(UUID, 1), tap_name(UUID.replace("3f", "4f"), 0)}) == 3


@pytest.mark.parametrize("name", ["", "a" * 16])
def test_a_name_that_the_kernel_would_not_take_is_refused(name: str):
    with pytest.raises(Refused, match="1 to 15 bytes"):
        Tap.open(name, "br0")


async def test_blocking_in_the_event_loop_is_a_programming_error():
    with pytest.raises(RuntimeError, match="call this in a thread"):
        Tap.open("bsctest", "br0")
