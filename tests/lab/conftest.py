"""What the lab's tests share: labs that leave nothing behind, a stand-in for the agent, the guest's image."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bascule.lab.laboratory import Lab
from bascule.lab.names import Member
from bascule.lab.places import HostPlaces
from bascule.lab.removal import find_remains

if TYPE_CHECKING:
    from bascule.lab.guest_image import GuestImage

_numbers = itertools.count(1)


@pytest.fixture
def lab_names() -> Iterator[Callable[[], str]]:
    """Give names of labs that nobody else uses; after the test, nothing of these labs may be left."""
    names: list[str] = []

    def new_name() -> str:
        names.append(f"t{os.getpid()}-{next(_numbers)}")
        return names[-1]

    yield new_name
    left = {name: remains for name in names if (remains := find_remains(name))}
    for name in left:  # the next test starts from nothing even if this one fails
        Lab(name).down()
    assert not left


@pytest.fixture
def lab(lab_names: Callable[[], str]) -> Iterator[Callable[..., Lab]]:
    """Build labs: `lab(hosts=2, link_bit_s=10**9)`, with the arguments of `Lab.up`. They are removed after the test.

    The agents are the real ones unless `agent_command` says otherwise.
    """
    built: list[Lab] = []

    def build(**arguments: Any) -> Lab:
        new = Lab(lab_names())
        built.append(new)
        new.up(**arguments)
        return new

    yield build
    for each in built:
        each.down()


@pytest.fixture
def stand_in() -> Callable[[Member, HostPlaces], list[str]]:
    """Return an `agent_command` that starts in 0.1 s and answers GET /v1/host and /v1/vms, no more."""
    script = Path(__file__).with_name("stand_in_agent.py")
    return lambda _member, places: [sys.executable, "-I", str(script), str(places.config)]


@pytest.fixture(scope="session")
def guest_image() -> GuestImage:
    """Return the guest's kernel and initrd, built once and kept in BASCULE_CACHE or /var/cache/bascule."""
    from bascule.lab import guest_image as image  # noqa: PLC0415 - many tests boot no guest

    return image.build(Path(os.environ.get("BASCULE_CACHE", "/var/cache/bascule")))
