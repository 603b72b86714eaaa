"""`bascule migrate --probe`: what a client felt stands in the report, however the move ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lab.moves.conftest import Place

pytestmark = pytest.mark.lab

SLOW_LINK_BIT_S = 200_000_000
TALK = "import socket, sys; socket.create_connection((sys.argv[1], 7), 20).close()"
OUTAGE_KEYS = {"probe_hz", "sent", "lost", "duplicated", "reordered", "longest_silence_ms"}


def ended(command: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = command.communicate(timeout=60)
    return command.returncode, out.decode(), err.decode()


def assert_kept(there: Place, report: dict[str, Any]) -> None:
    """The host keeps what the command has printed, with what was seen of the network later, if that came late."""
    kept = kept_report(there)
    if report["network"] is not None and report["network"]["state"] == "watching":
        kept["network"] = report["network"]
    assert kept == report


def kept_report(there: Place, host: str = "h1") -> dict[str, Any]:
    """The newest report as the agent keeps it."""
    report: dict[str, Any] = json.loads(there.bascule(host, "report", "--json").stdout)
    return report


def probes_of(there: Place, host: str) -> list[int]:
    """The process ids of the probes in a host."""
    inode = Path(f"/run/netns/{there.lab.host(host).namespace}").stat().st_ino
    found = []
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
            if b"bascule.network.probe\0" in command and (process / "ns/net").stat().st_ino == inode:
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_the_vms_address_is_found_and_the_outage_is_in_the_report(place: Callable[..., Place]) -> None:
    there = place(dirty_mib=16, rate_mb_s=5)
    assert there.lab.run("h1", [sys.executable, "-c", TALK, there.guest.address]).returncode == 0
    done = there.bascule("h1", "migrate", "guest", "h2", "--probe", "--probe", "connect:7", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    outage = report["outage"]
    assert (report["outcome"], outage["probe"], outage["target"]) == ("completed", "ICMP echo", "10.77.0.50")
    assert outage.keys() >= OUTAGE_KEYS
    assert outage["sent"] > 0
    assert outage["samples"][0][0] < 0 < report["total_s"] < outage["samples"][-1][0]
    assert outage["longest_silence_ms"] > report["blackout_ms"]
    assert [one["probe"] for one in outage["others"]] == ["TCP connect"]
    assert_kept(there, report)
    as_text = " ".join(there.bascule("h1", "report").stdout.split())
    assert f"lost {outage['lost']:,} of {outage['sent']:,}" in as_text
    assert "TCP connect to 10.77.0.50:7" in as_text
    assert not probes_of(there, "h1")
    there.assert_only_on("h2")


def test_a_guest_that_is_silent_is_made_to_speak(place: Callable[..., Place]) -> None:
    """Nobody has talked to it: its own frames, or one ping to all on its bridge, tell its link-local address."""
    there = place()
    done = there.bascule("h1", "migrate", "guest", "h2", "--probe")
    assert done.returncode == 0, done.stderr
    assert "probing fe80::" in done.stderr
    assert "its frames" in done.stderr
    assert kept_report(there)["outage"]["target"].endswith("%br0")


def test_ipv6_and_lines_for_people(place: Callable[..., Place]) -> None:
    there = place()
    done = there.bascule("h1", "migrate", "guest", "h2", "--probe", f"udp://[{there.guest.address_v6}]:7")
    assert done.returncode == 0, done.stderr
    assert f"UDP echo to [{there.guest.address_v6}]:7" in done.stdout
    assert kept_report(there)["outage"]["target"] == f"[{there.guest.address_v6}]:7"


def test_ctrl_c_cancels_the_move_and_keeps_the_outage(place: Callable[..., Place]) -> None:
    there = place(dirty_mib=16, rate_mb_s=2, link_bit_s=SLOW_LINK_BIT_S)
    command = there.start("h1", "migrate", "guest", "h2", "--probe", "--json")
    there.wait_phase("h1", "copying")
    os.killpg(command.pid, signal.SIGINT)
    status, out, _ = ended(command)
    report = json.loads(out)
    assert (status, report["outcome"]) == (3, "cancelled")
    assert report["outage"]["sent"] > 0
    assert_kept(there, report)
    assert not probes_of(there, "h1")
    there.assert_only_on("h1")


def test_a_probe_that_was_put_aside_says_so(place: Callable[..., Place]) -> None:
    """Stopped for a while in mid-move: nothing is taken out of the figures, and the report says how long it was."""
    there = place(dirty_mib=16, rate_mb_s=2, link_bit_s=SLOW_LINK_BIT_S)
    command = there.start("h1", "migrate", "guest", "h2", "--probe", "--json")
    there.wait_phase("h1", "copying")
    (probe,) = probes_of(there, "h1")
    os.kill(probe, signal.SIGSTOP)
    stopped = time.monotonic()
    there.wait(lambda: time.monotonic() > stopped + 0.5, "half a second")
    os.kill(probe, signal.SIGCONT)
    status, out, err = ended(command)
    assert status == 0, err
    outage = json.loads(out)["outage"]
    assert outage["own_gap_longest_ms"] >= 450
    assert outage["longest_silence_ms"] >= 450
    assert "was not scheduled" in outage["note"]
    assert "may be as much too long" in outage["note"]


def test_a_probe_that_is_killed_does_not_change_how_the_move_ends(place: Callable[..., Place]) -> None:
    there = place(dirty_mib=16, rate_mb_s=2, link_bit_s=SLOW_LINK_BIT_S)
    command = there.start("h1", "migrate", "guest", "h2", "--probe", "--json")
    there.wait_phase("h1", "copying")
    (probe,) = probes_of(there, "h1")
    os.kill(probe, signal.SIGKILL)
    status, out, err = ended(command)
    assert status == 0
    assert json.loads(out)["outage"] is None
    assert "what the client felt is not in the agent's report: " in err
    there.assert_only_on("h2")


def test_a_client_that_sees_nothing_begins_no_move(place: Callable[..., Place]) -> None:
    there = place()
    for how, told in (
        ("10.77.0.99", "10.77.0.99 does not answer ICMP"),
        ("tcp:9", "Connection refused"),
        ("no-such-host.invalid", "cannot be resolved"),
        ("198.51.100.1", "Network is unreachable"),
    ):
        done = there.bascule("h1", "migrate", "guest", "h2", "--probe", how)
        assert done.returncode == 1, done.stdout + done.stderr
        assert told in done.stderr
    assert there.newest("h1") == {}
    there.assert_only_on("h1")


@pytest.mark.parametrize("host", ["h1", "h3"])
def test_another_host_watches(place: Callable[..., Place], host: str) -> None:
    """The agent there probes, and says how well the clocks are compared; asking the source's own agent is as good."""
    there = place(hosts=3)
    assert there.lab.run("h1", [sys.executable, "-c", TALK, there.guest.address]).returncode == 0
    words = ["--probe", "udp:7", "--probe", "connect:7", "--probe-from", host, "--json"]
    done = there.bascule("h1", "migrate", "guest", "h2", *words)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    outage = report["outage"]
    assert (outage["from_host"], outage["target"]) == (host, "10.77.0.50:7")
    assert outage["sent"] > 0
    assert outage["samples"][0][0] < 0 < report["total_s"] < outage["samples"][-1][0]
    assert (f"The client was host {host}" in outage["note"]) == (host != "h1")
    assert [one["probe"] for one in outage["others"]] == ["TCP connect"]
    assert_kept(there, report)
    there.wait(lambda: not probes_of(there, host), "the end of the probes")


def test_a_host_that_cannot_watch_begins_no_move(place: Callable[..., Place]) -> None:
    there = place()
    for words, told in (
        (["--probe", "10.77.0.99", "--probe-from", "h2"], "10.77.0.99 does not answer ICMP"),
        (["--probe-from", "h2"], "which cannot be asked so"),
        (["--probe", "10.77.0.50", "--probe-from", "h9"], "host h9 is not known"),
    ):
        done = there.bascule("h1", "migrate", "guest", "h2", *words)
        assert done.returncode == 1, done.stdout + done.stderr
        assert told in done.stderr
    assert there.newest("h1") == {}
    assert not probes_of(there, "h2")


def test_a_killed_command_leaves_no_probe_elsewhere(
    place: Callable[..., Place],
) -> None:
    """Nobody renews its lease; and the move goes on without it."""
    there = place(dirty_mib=16, rate_mb_s=2, link_bit_s=SLOW_LINK_BIT_S)
    words = ("migrate", "guest", "h2", "--probe", "10.77.0.50", "--probe-from", "h2")
    command = there.start("h1", *words, heard=False)
    there.wait_phase("h1", "copying")
    assert probes_of(there, "h2")
    command.kill()
    there.wait(lambda: not probes_of(there, "h2"), "the end of the lease")
    there.wait(lambda: there.newest("h1").get("outcome") == "completed", "the move's end")
    there.assert_only_on("h2")


def mark_s(report: dict[str, Any], what: str) -> float:
    """When that happened, in s from the move's start."""
    return next(float(mark["at_s"]) for mark in report["marks"] if mark["what"] == what)


def test_a_bulk_stream_through_a_move_is_whole_and_its_curve_is_in_the_report(
    place: Callable[..., Place], tmp_path: Path
) -> None:
    there = place(dirty_mib=16, rate_mb_s=2)
    page = tmp_path / "move.html"
    probe = f"bulk://{there.guest.address}:7"
    done = there.bascule("h1", "migrate", "guest", "h2", "--probe", probe, "--html", str(page))
    assert done.returncode == 0, done.stderr
    report = kept_report(there)
    outage, stream = report["outage"], report["outage"]["throughput"]
    assert (report["outcome"], outage["probe"], outage["lost"]) == ("completed", "bulk TCP", 0)
    assert "The TCP connection is the same since the start" in outage["note"]
    assert stream["total_bytes"] == sum(stream["bytes"]) > 0
    assert f"{stream['total_bytes']:,} bytes came back verified and in order" in outage["note"]
    assert (
        stream["start_s"] < 0 < report["total_s"] < stream["start_s"] + len(stream["bytes"]) * stream["step_ms"] / 1e3
    )
    stop_s, run_s = (mark_s(report, what) for what in ("STOP", "RESUME"))
    step_s = stream["step_ms"] / 1e3
    begins = [stream["start_s"] + number * step_s for number in range(len(stream["bytes"]))]
    sizes = list(zip(begins, stream["bytes"], strict=True))
    assert sum(size for at_s, size in sizes if at_s + step_s < stop_s) > 0
    assert sum(size for at_s, size in sizes if at_s > run_s) > 0
    assert outage["last_answer_before_run_s"] < run_s < outage["first_answer_after_run_s"]
    assert outage["longest_silence_ms"] > 0
    said = " ".join(done.stdout.split())
    assert "no byte came for" in said
    assert "= blackout" in said
    assert "What came back of a bulk TCP stream" in page.read_text()
    assert not probes_of(there, "h1")
    there.assert_only_on("h2")
