"""Probes that live on a lease, against a real echo service on loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bascule.agent import probes
from bascule.agent.clock import ClockOffset, wall_us
from bascule.agent.http_errors import NotFound
from bascule.agent.probes import Probes, with_clock
from bascule.errors import Refused

PATIENCE_S = 60.0


@pytest.fixture
def echo() -> Iterator[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        name = sock.getsockname()

        def run() -> None:
            while True:
                data, sender = sock.recvfrom(2048)
                if not data:
                    return
                sock.sendto(data, sender)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"127.0.0.1:{name[1]}"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", name)
        thread.join()


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def until_empty(folder: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while left_in(folder):  # noqa: ASYNC110 - a process ends; there is nothing to be told by
            await asyncio.sleep(0.02)


async def test_a_window_of_the_wall_clock(echo: str, tmp_path: Path) -> None:
    running = Probes(tmp_path)
    try:
        number = (await running.begin("udp", echo, 200.0))["id"]
        started_us = wall_us()
        await asyncio.sleep(0.2)
        ended_us = wall_us()
        running.renew(number)
        seen = await running.outage(number, started_us, ended_us)
        assert (seen["probe"], seen["target"], seen["probe_hz"]) == ("UDP echo", echo, 200.0)
        assert seen["sent"] > 0
        assert seen["duration_s"] == pytest.approx((ended_us - started_us) / 1e6 + 1.0, abs=0.01)
        assert seen["samples"][0][0] < 0 < seen["samples"][-1][0]
        await running.end(number)
        assert not left_in(tmp_path)
        with pytest.raises(NotFound, match="no probe"):
            running.renew(number)
        await running.end(number)  # a second time is no error
    finally:
        await running.close()


async def test_one_that_nobody_renews_ends(echo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LEASE_S", 0.3)
    running = Probes(tmp_path)
    try:
        number = (await running.begin("udp", echo, 50.0))["id"]
        await until_empty(tmp_path)
        with pytest.raises(NotFound):
            await running.outage(number, wall_us(), wall_us())
    finally:
        await running.close()


async def test_one_that_is_renewed_goes_on(echo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LEASE_S", 5.0)
    running = Probes(tmp_path)
    try:
        number = (await running.begin("udp", echo, 50.0))["id"]
        begun = time.monotonic()
        while time.monotonic() < begun + 6.0:
            running.renew(number)
            await asyncio.sleep(0.1)
        running.renew(number)
    finally:
        await running.close()
    assert not left_in(tmp_path)


async def test_what_cannot_be_asked_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Probes(tmp_path)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        with pytest.raises(Refused, match="nothing listens"):
            await running.begin("udp", f"127.0.0.1:{port}", 50.0)
        assert not left_in(tmp_path)
        monkeypatch.setattr(probes, "MOST", 0)
        with pytest.raises(Refused, match="0 probes run already"):
            await running.begin("udp", "127.0.0.1:7", 50.0)
    finally:
        await running.close()


async def test_the_agents_end_ends_them_all(echo: str, tmp_path: Path) -> None:
    running = Probes(tmp_path)
    for _ in range(2):
        await running.begin("udp", echo, 50.0)
    await running.close()
    assert not left_in(tmp_path)


def test_how_well_the_clocks_are_compared_is_said() -> None:
    seen = with_clock({"note": "", "sent": 1}, "h3", ClockOffset(ahead_us=12_000.0, error_us=340.0))
    assert (seen["from_host"], seen["clock_error_ms"], seen["sent"]) == ("h3", 0.34, 1)
    assert "known to 0.3 ms" in seen["note"]
    longer = with_clock({"note": "It slept."}, "h3", ClockOffset(0.0, 1.0))
    assert longer["note"].startswith("It slept. The client was host h3")
