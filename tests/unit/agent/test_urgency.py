"""Going first while a VM stands still, and never longer."""

import asyncio
import gc
import os
import threading
from collections.abc import Iterator

import pytest

from bascule.agent.urgency import Urgency


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    assert gc.isenabled()
    assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER


@pytest.fixture
def urgency() -> Urgency:
    return Urgency([threading.get_native_id()])


def real_time() -> bool:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR


def permitted() -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return True


async def test_it_is_held_until_the_last_switchover_is_through(urgency: Urgency) -> None:
    urgency.hold("m1")
    urgency.hold("m2")
    urgency.hold("m1")
    assert not gc.isenabled()
    assert real_time() or not permitted()
    urgency.release("m1")
    assert urgency.held
    assert not gc.isenabled()
    urgency.release("m2")
    assert not urgency.held
    assert gc.isenabled()
    assert not real_time()


async def test_what_is_started_meanwhile_does_not_go_first(urgency: Urgency) -> None:
    urgency.hold("m1")
    try:
        child = await asyncio.create_subprocess_exec(
            *("python3", "-c", "import os; print(os.sched_getscheduler(0))"), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await child.communicate()
    finally:
        urgency.release("m1")
    assert int(said) == os.SCHED_OTHER


async def test_a_switchover_that_never_ends_does_not_hold_it_for_ever(urgency: Urgency) -> None:
    urgency.hold("m1", at_most_s=0.01)
    async with asyncio.timeout(10):
        while urgency.held:  # noqa: ASYNC110 - a timer ends it
            await asyncio.sleep(0.001)


async def test_releasing_what_nobody_holds_changes_nothing(urgency: Urgency) -> None:
    urgency.release("m1")
    assert not urgency.held


async def test_a_thread_that_has_ended_is_no_error() -> None:
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    gone = Urgency([ended.native_id or 0])
    gone.hold("m1")
    gone.release("m1")
