from __future__ import annotations

import asyncio
import os
import threading

import pytest

from bascule.storage.stoppable import Stop, StoppedError, run_stoppable


async def test_the_result_of_the_work_is_returned():
    assert await run_stoppable(lambda _: threading.get_ident()) != threading.get_ident()


async def test_the_error_of_the_work_is_raised():
    def work(_: Stop) -> None:
        raise KeyError("reason")

    with pytest.raises(KeyError, match="reason"):
        await run_stoppable(work)


async def cancelled(awaitable: object) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await awaitable  # type: ignore[misc]


async def test_work_that_waits_for_a_descriptor_is_stopped():
    reading, writing = os.pipe()
    ended = threading.Event()

    def work(stop: Stop) -> None:
        try:
            stop.wait_readable(reading)
        finally:
            ended.set()

    await cancelled(run_stoppable(work))
    assert ended.is_set(), "the caller goes on only when the work is over"
    os.close(reading)
    os.close(writing)


async def test_what_was_finished_meanwhile_is_undone():
    undone: list[str] = []

    def work(stop: Stop) -> str:
        try:
            while True:
                stop.check()
        except StoppedError:
            return "too late"

    await cancelled(run_stoppable(work, undo=undone.append))
    assert undone == ["too late"]


async def test_being_cancelled_again_does_not_leave_the_work_behind():
    release, ended = threading.Event(), threading.Event()

    def work(stop: Stop) -> None:
        with pytest.raises(StoppedError):
            stop.wait_readable(never)
        release.wait()
        ended.set()

    never, writing = os.pipe()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run_stoppable(work), name="work")
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        release.set()
    assert ended.is_set()
    assert task.cancelled()
    os.close(never)
    os.close(writing)


async def test_a_pipe_that_ends_is_readable():
    reading, writing = os.pipe()
    os.close(writing)
    await run_stoppable(lambda stop: stop.wait_readable(reading))
    os.close(reading)
