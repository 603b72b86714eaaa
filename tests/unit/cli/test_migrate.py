"""A move as seen from the command line: progress, cancelling, losing the agent, exit statuses."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from subprocess import Popen

    from tests.unit.cli.conftest import Cli, Records, ScriptedAgent

EVENTS = "GET /v1/moves/m-1/events"


@pytest.fixture
def moving(agent: ScriptedAgent) -> ScriptedAgent:
    """An agent that has let move m-1 begin."""
    agent.ok("POST /v1/moves", {"id": "m-1"}, 202)
    return agent


def wait_for_line(process: Popen[str], part: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if part in line:
            return line
    raise AssertionError(f"no line with {part!r}: {process.communicate(timeout=30)}")


def test_plain_progress_is_one_line_per_change_and_then_the_report(
    cli: Cli, moving: ScriptedAgent, records: Records
) -> None:
    progress = [
        records.progress(phase="checking", round=0, at_s=0.0, message="asking h2"),
        *(records.progress(remaining_bytes=n << 20) for n in (900, 700, 500)),
        records.progress(round=2, at_s=3.0, remaining_bytes=10 << 20, forecast_blackout_ms=None),
        records.progress(phase="switching-over", round=2, at_s=3.1),
    ]
    moving.on(EVENTS, [*(("progress", p) for p in progress), ("end", records.report())])
    done = cli("migrate", "web", "h2", "--max-blackout", "50ms", "--deadline", "10m")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:4] == [
        "    0.00 s  checking: asking h2",
        "    1.50 s  copying: round 1, 900 MiB left, 300 MiB/s, blackout forecast 41 ms",
        "    3.00 s  copying: round 2, 10 MiB left, 300 MiB/s",
        "    3.10 s  switching-over",
    ]
    assert len(done.stdout.splitlines()) > 4  # the report
    assert "\x1b" not in done.stdout
    assert moving.bodies("POST", "/v1/moves") == [
        {"vm": "web", "destination": "h2", "mode": "live", "max_blackout_ms": 50.0, "deadline_s": 600.0}
    ]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("completed", 0), ("refused", 1), ("failed", 3), ("cancelled", 3), ("unknown", 4), ("new", 4)],
)
def test_the_exit_status_is_the_outcome(
    cli: Cli, moving: ScriptedAgent, records: Records, outcome: str, status: int
) -> None:
    report = records.report(outcome=outcome)
    moving.on(EVENTS, [("progress", records.progress()), ("end", report)])
    done = cli("migrate", "web", "h2", "--quick", "--json")

    assert done.returncode == status
    assert json.loads(done.stdout) == report
    assert done.stderr == ""
    assert moving.bodies("POST", "/v1/moves")[0]["mode"] == "quick"


def test_refused_shows_every_finding(cli: Cli, agent: ScriptedAgent) -> None:
    findings = [
        {"subject": "disk /vm/web.qcow2", "problem": "h2 does not see it", "remedy": "mount it there"},
        {"subject": "cpu", "problem": "h2 lacks avx2", "remedy": ""},
    ]
    error = {"kind": "refused", "message": "cannot migrate vm web to h2", "remedy": "", "findings": findings}
    agent.ok("POST /v1/moves", {"error": error}, 409)
    done = cli("migrate", "web", "h2")

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "bascule: cannot migrate vm web to h2",
        "  - disk /vm/web.qcow2: h2 does not see it (mount it there)",
        "  - cpu: h2 lacks avx2",
    ]


def test_plan(cli: Cli, agent: ScriptedAgent) -> None:
    bad = {"ok": False, "findings": [{"subject": "a", "problem": "b", "remedy": "c"}] * 2, "forecast": None}
    good = {"ok": True, "findings": [], "forecast": {"total_s": 4.2, "blackout_ms": 12.3}}
    agent.ok("POST /v1/plans", bad)
    refused, as_json = cli("migrate", "web", "h2", "--plan"), cli("migrate", "web", "h2", "--plan", "--json")
    agent.ok("POST /v1/plans", good)
    fine = cli("migrate", "web", "h2", "--plan")

    assert refused.returncode == 1
    assert refused.stderr.count("  - a: b (c)") == 2
    assert (as_json.returncode, json.loads(as_json.stdout), as_json.stderr) == (1, bad, "")
    assert fine.returncode == 0
    assert fine.stdout.splitlines() == [
        "can migrate vm web to h2: nothing speaks against it",
        "forecast: 4.20 s in all, blackout 12 ms",
    ]
    assert not agent.bodies("POST", "/v1/moves")


def test_detach_prints_the_id(cli: Cli, moving: ScriptedAgent) -> None:
    assert "bascule moves m-1 --follow" in cli("migrate", "web", "h2", "--detach").stdout
    assert json.loads(cli("migrate", "web", "h2", "--detach", "--json").stdout) == {"id": "m-1"}
    assert cli("migrate", "web", "h2", "--detach", "--plan").returncode == 2
    assert not [asked for asked in moving.asked if asked.path.endswith("/events")]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--probe", "connect"], "connect needs a port, as in connect:22"),
        (["--probe", "10.77.0.50:7"], "say how to ask, as in udp://10.77.0.50:7"),
        (["--probe", "--plan"], "goes with neither --plan nor --detach"),
        (["--probe-from", "h3", "--detach"], "goes with neither --plan nor --detach"),
        (["--probe", "--probe-hz", "20000"], "--probe-hz"),
    ],
)
def test_a_probe_that_cannot_be_meant(cli: Cli, moving: ScriptedAgent, words: list[str], told: str) -> None:
    done = cli("migrate", "web", "h2", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert not moving.bodies("POST", "/v1/moves")


def test_a_vm_without_a_network_card_cannot_be_probed(cli: Cli, moving: ScriptedAgent) -> None:
    moving.ok("GET /v1/vms/web", {"name": "web", "uuid": "u", "definition": {"nics": []}})
    done = cli("migrate", "web", "h2", "--probe")
    assert done.returncode == 1
    assert "it has no network card" in done.stderr
    assert not moving.bodies("POST", "/v1/moves")


def test_html(cli: Cli, moving: ScriptedAgent, records: Records, tmp_path: Path) -> None:
    moving.on(EVENTS, [("end", records.report())])
    page = tmp_path / "move.html"

    assert cli("migrate", "web", "h2", "--html", str(page)).returncode == 0
    assert "<html" in page.read_text().lower()


def test_ctrl_c_cancels_and_waits_for_the_true_end(cli: Cli, moving: ScriptedAgent, records: Records) -> None:
    cancelled = threading.Event()

    def cancel(_asked: Any) -> Any:
        cancelled.set()
        return moving.answer(202, {"accepted": True, "message": "the agent withdraws"})

    moving.on("POST /v1/moves/m-1/cancel", cancel)
    moving.on(EVENTS, [("progress", records.progress()), cancelled, ("end", records.report(outcome="cancelled"))])
    process = cli.spawn("migrate", "web", "h2")
    wait_for_line(process, "copying")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)

    assert process.returncode == 3, stderr
    assert "cancelling the move; press Ctrl-C again to leave" in stdout
    assert "Traceback" not in stderr


def test_ctrl_c_too_late_ends_with_what_really_happened(cli: Cli, moving: ScriptedAgent, records: Records) -> None:
    answered = threading.Event()

    def cancel(_asked: Any) -> Any:
        answered.set()
        return moving.answer(200, {"accepted": False, "message": "too late: the decision has been taken"})

    moving.on("POST /v1/moves/m-1/cancel", cancel)
    steps = [("progress", records.progress(phase="deciding")), answered, ("end", records.report())]
    moving.on(EVENTS, steps)
    process = cli.spawn("migrate", "web", "h2")
    wait_for_line(process, "deciding")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)

    assert process.returncode == 0


def test_ctrl_c_twice_leaves_and_says_how_to_look(cli: Cli, moving: ScriptedAgent, records: Records) -> None:
    never = threading.Event()
    moving.ok("POST /v1/moves/m-1/cancel", {"accepted": True, "message": "the agent withdraws"})
    moving.on(EVENTS, [("progress", records.progress()), never])
    process = cli.spawn("migrate", "web", "h2")
    wait_for_line(process, "copying")
    process.send_signal(signal.SIGINT)
    wait_for_line(process, "the agent withdraws")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    never.set()

    assert process.returncode == 4
    assert "you left before the end of move m-1: it goes on" in stderr
    assert "bascule moves m-1" in stderr


def test_ctrl_c_during_the_checks_cancels_once_there_is_something_to_cancel(
    cli: Cli, agent: ScriptedAgent, records: Records
) -> None:
    checked, cancelled = threading.Event(), threading.Event()

    def check(_asked: Any) -> Any:
        assert checked.wait(30)
        return agent.answer(202, {"id": "m-1"})

    def cancel(_asked: Any) -> Any:
        cancelled.set()
        return agent.answer(202, {"accepted": True, "message": "withdrawn"})

    agent.on("POST /v1/moves", check)
    agent.on("POST /v1/moves/m-1/cancel", cancel)
    agent.on(EVENTS, [cancelled, ("end", records.report(outcome="cancelled"))])
    process = cli.spawn("migrate", "web", "h2")
    agent.arrivals.get(timeout=30)
    process.send_signal(signal.SIGINT)
    checked.set()
    process.communicate(timeout=30)

    assert process.returncode == 3


def test_a_lost_stream_is_opened_again(cli: Cli, moving: ScriptedAgent, records: Records) -> None:
    cut = moving.cut()
    again = [("progress", records.progress(round=5)), ("end", records.report())]
    moving.on(EVENTS, [("progress", records.progress()), cut], again)
    done = cli("migrate", "web", "h2")

    assert done.returncode == 0
    assert "lost the agent (the agent closed the connection); connecting again" in done.stdout
    assert "round 5" in done.stdout


def test_an_agent_that_dies_and_stays_away_is_unknown(cli: Cli, moving: ScriptedAgent, records: Records) -> None:
    dead = threading.Event()
    moving.on(EVENTS, [("progress", records.progress()), dead, moving.cut()])
    process = cli.spawn("migrate", "web", "h2", "--patience", "1s")
    wait_for_line(process, "copying")
    moving.die()
    dead.set()
    stdout, stderr = process.communicate(timeout=30)

    assert process.returncode == 4
    assert "connecting again" in stdout
    assert "the agent stayed away for 1 s while move m-1 was going on" in stderr
    assert "look with: bascule moves m-1" in stderr


def test_an_agent_that_hangs_is_unknown(cli: Cli, moving: ScriptedAgent, records: Records) -> None:
    never = threading.Event()
    moving.on(EVENTS, [("progress", records.progress()), never], [never])
    done = cli("migrate", "web", "h2", "--patience", "500ms", "--json")
    never.set()

    assert done.returncode == 4
    assert json.loads(done.stderr)["error"]["kind"] == "unknown"


def test_a_restarted_agent_that_has_forgotten_the_move_is_unknown_too(
    cli: Cli, moving: ScriptedAgent, records: Records
) -> None:
    forgotten = moving.answer(404, {"error": {"kind": "refused", "message": "no move m-1", "remedy": ""}})
    moving.on(EVENTS, [("progress", records.progress()), moving.cut()], forgotten)

    assert cli("migrate", "web", "h2").returncode == 4


def test_a_reader_that_goes_away_does_not_change_the_outcome(cli: Cli, moving: ScriptedAgent, records: Records) -> None:
    more = threading.Event()
    second = [("progress", records.progress(round=n)) for n in range(2, 9)]
    moving.on(EVENTS, [("progress", records.progress()), more, *second, ("end", records.report(outcome="failed"))])
    process = cli.spawn("migrate", "web", "h2")
    wait_for_line(process, "copying")
    assert process.stdout is not None
    process.stdout.close()
    more.set()
    assert process.stderr is not None
    stderr = process.stderr.read()
    process.stderr.close()

    assert process.wait(timeout=30) == 3
    assert stderr == ""


def test_a_terminal_gets_a_live_bar_that_goes_away(cli: Cli, moving: ScriptedAgent, records: Records) -> None:
    master, slave = os.openpty()
    seen = threading.Event()
    moving.on(EVENTS, [("progress", records.progress()), seen, ("end", records.report())])
    process = cli.spawn("migrate", "web", "h2", stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    while b"blackout forecast 41 ms" not in shown:
        shown += os.read(master, 65536)
    seen.set()
    while True:
        try:
            shown += os.read(master, 65536)
        except OSError:  # the terminal's last user is gone
            break
    os.close(master)

    assert process.wait(timeout=30) == 0
    assert "copying: round 1, 512 MiB left" in shown.decode()
    assert "━" in shown.decode()
    assert shown.count(b"\x1b[?25h") >= 1  # the cursor is back


def test_the_address_that_the_vms_frames_have_named_is_probed(cli: Cli, moving: ScriptedAgent) -> None:
    """It lies on loopback here, where it answers to a user who may ask; tagged ones are out of this host's reach."""
    known = [{"address": "192.0.2.1", "vlans": [[0x8100, 7]]}, {"address": "127.0.0.9", "vlans": []}]
    nic = {"mac": "52:54:00:aa:bb:cc", "bridge": "br0"}
    described = {
        "name": "web",
        "uuid": "u",
        "definition": {"nics": [nic]},
        "network": [{"mac": nic["mac"], "known": known}],
    }
    moving.ok("GET /v1/vms/web", described)
    moving.on(EVENTS, [("end", {"id": "m-1", "outcome": "refused", "started_at": "2026-03-04T09:12:44Z"})])
    done = cli("migrate", "web", "h2", "--probe", "connect:9")
    assert "probing 127.0.0.9: its frames have named it" in done.stderr
    assert moving.bodies("POST", "/v1/moves")
    assert done.returncode == 1


@pytest.mark.parametrize("arguments", [("--probe", "web", "h2"), ("--json", "--probe", "web", "h2")])
def test_an_argument_that_probe_has_taken_for_its_value_is_said(
    cli: Cli, moving: ScriptedAgent, arguments: Any
) -> None:
    done = cli("migrate", *arguments)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "HOST is missing: --probe has taken 'web' for how to ask" in said
    assert "bascule migrate web HOST --probe" in said
    assert not moving.bodies("POST", "/v1/moves")


def test_a_missing_host_is_not_blamed_on_probe(cli: Cli) -> None:
    done = cli("migrate", "web", "--probe")
    assert done.returncode == 2
    assert "Missing argument 'HOST'" in done.stderr
