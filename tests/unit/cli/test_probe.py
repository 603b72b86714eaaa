"""`bascule probe` as a user runs it, against a real echo service on loopback."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_S = 60.0
BASCULE = str(Path(sys.executable).with_name("bascule"))


@pytest.fixture
def echo_port() -> Iterator[int]:
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
        yield int(name[1])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", name)
        thread.join()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BASCULE, "probe", *words], capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_a_summary_after_the_duration(echo_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = run("127.0.0.1", "--udp", str(echo_port), "--hz", "100", "--duration", "300ms")
    assert (done.returncode, done.stderr) == (0, "")
    summary = done.stdout.replace("\N{NO-BREAK SPACE}", " ")
    assert f"UDP echo to 127.0.0.1:{echo_port} at 100 Hz\n" in summary
    assert "lost 0, duplicated 0, reordered 0" in summary
    assert "longest silence" in summary
    assert not list(tmp_path.iterdir())


def test_json(echo_port: int) -> None:
    done = run("127.0.0.1", "--udp", str(echo_port), "--hz", "200", "--duration", "500ms", "--json")
    record = json.loads(done.stdout)
    assert (done.returncode, record["probe"], record["probe_hz"]) == (0, "UDP echo", 200.0)
    assert len(record["samples"]) == record["sent"] > 0
    assert record["lost"] == sum(rtt is None for _, rtt in record["samples"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_the_summary(
    echo_port: int, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with subprocess.Popen(
        [BASCULE, "probe", "127.0.0.1", "--udp", str(echo_port), "--hz", "100"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(number)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert "sent " in line
    assert "UDP echo to 127.0.0.1" in rest
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no-such-host.invalid"], "cannot be resolved"),
        (["127.0.0.1", "--tcp", "{unused}"], "Connection refused"),
        (["127.0.0.1:{unused}", "--http"], "Connection refused"),
    ],
)
def test_what_cannot_be_asked_is_refused(words: list[str], told: str) -> None:
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
        done = run(*[word.replace("{unused}", port) for word in words])
        assert done.returncode == 1
        assert told in done.stderr
        as_json = run(*[word.replace("{unused}", port) for word in words], "--json")
    assert as_json.returncode == 1
    assert as_json.stdout == ""
    assert json.loads(as_json.stderr)["error"]["kind"] == "refused"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["10.77.0.50", "--udp", "7", "--http"],
        ["10.77.0.50:7"],
        ["10.77.0.50", "--hz", "0"],
        ["10.77.0.50", "--hz", "20000"],
        ["10.77.0.50", "--udp", "70000"],
        ["10.77.0.50", "--duration", "10"],
    ],
)
def test_wrong_usage(words: list[str]) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr


def test_help_has_examples() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "bascule probe 10.77.0.50 --connect 22" in done.stdout
    assert "Exit status: 0 done" in done.stdout
