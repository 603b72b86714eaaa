"""Those who watch a move: late ones see where it stands, slow ones lose the oldest, nobody loses the end."""

import asyncio
from typing import Any

from bascule.agent.progress import MESSAGES, MOST_WAITING, Watchers
from bascule.agent.source_move import phase_name
from bascule.migration import facts, source

COPY = facts.CopyProgress(
    round=2, remaining_bytes=100, transferred_bytes=900, bandwidth_bytes_per_s=1e9, at_round_end=True
)
# The contract with everything that follows a move.
KEYS = {
    *("move", "at_s", "phase", "round", "remaining_bytes", "transferred_bytes", "total_bytes", "rate_bytes_per_s"),
    *("forecast_blackout_ms", "message"),
}


def tell(watchers: Watchers, at_s: float, phase: str = "copying", copy: facts.CopyProgress | None = None) -> None:
    watchers.tell(
        at_s=at_s,
        phase=phase,
        copy=copy,
        total_bytes=1000 if copy else 0,
        rate_bytes_per_s=5e8 if copy else 0.0,
        forecast_blackout_ms=12.5 if copy else None,
    )


async def follow(watchers: Watchers) -> list[tuple[str, dict[str, Any]]]:
    return [event async for event in watchers.follow()]


async def test_a_watcher_sees_where_the_move_stands_then_what_happens_then_the_end() -> None:
    watchers = Watchers("m1")
    tell(watchers, 0.5, copy=COPY)
    seen = asyncio.ensure_future(follow(watchers))
    await asyncio.sleep(0)
    tell(watchers, 0.75)
    tell(watchers, 1.0, "releasing")
    watchers.end({"outcome": "completed"})
    events = await seen
    assert [kind for kind, _ in events] == ["progress", "progress", "progress", "end"]
    assert [data.get("at_s") for _, data in events] == [0.5, 0.75, 1.0, None]
    assert events[-1][1] == {"outcome": "completed"}


async def test_progress_has_all_its_keys_and_keeps_the_last_figures() -> None:
    watchers = Watchers("m1")
    tell(watchers, 0.5, copy=COPY)
    assert set(watchers.latest) == KEYS
    tell(watchers, 0.6, "switching-over")
    assert watchers.latest == {
        "move": "m1",
        "at_s": 0.6,
        "phase": "switching-over",
        "round": 2,
        "remaining_bytes": 100,
        "transferred_bytes": 900,
        "total_bytes": 1000,
        "rate_bytes_per_s": 500_000_000,
        "forecast_blackout_ms": None,
        "message": "the VM stands still while the last of its state is sent",
    }


async def test_who_comes_after_the_end_gets_it_at_once() -> None:
    watchers = Watchers("m1")
    watchers.end({"outcome": "failed"})
    assert [kind for kind, _ in await follow(watchers)] == ["progress", "end"]


async def test_a_slow_watcher_loses_the_oldest_and_never_the_end() -> None:
    watchers = Watchers("m1")
    slow = watchers.follow()
    assert (await anext(slow))[0] == "progress"
    pending = asyncio.ensure_future(anext(slow))
    await asyncio.sleep(0)  # it waits now, and is registered
    for number in range(1, MOST_WAITING + 101):
        tell(watchers, float(number))
    watchers.end({"outcome": "completed"})
    events = [await pending, *[event async for event in slow]]
    assert events[-1] == ("end", {"outcome": "completed"})
    assert len(events) <= MOST_WAITING + 1
    assert events[-2][1]["at_s"] == MOST_WAITING + 100
    times = [data["at_s"] for _, data in events[:-1]]
    assert times == sorted(times)


async def test_watchers_do_not_disturb_one_another_and_leave_nothing_behind() -> None:
    watchers = Watchers("m1")
    leaving, staying = watchers.follow(), asyncio.ensure_future(follow(watchers))
    await anext(leaving)
    await asyncio.sleep(0)
    await leaving.aclose()
    tell(watchers, 1.0)
    watchers.end({})
    assert [kind for kind, _ in await staying] == ["progress", "progress", "end"]
    assert not watchers._queues


async def test_each_state_of_a_move_has_words_of_its_own() -> None:
    names = {phase_name(state.__new__(state)) for state in source.SUCCESSORS}
    assert names == set(MESSAGES)
