"""The console: both ways, from a pipe and from a terminal that is always given back as it was."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, Records, ScriptedAgent

CTRL_CLOSE_BRACKET = b"\x1d"


@dataclass
class Guest:
    """A serial line with a guest behind it that shouts back what it hears, and dies on `poweroff`."""

    path: str
    heard: bytearray = field(default_factory=bytearray)

    def serve(self, listener: socket.socket) -> None:
        try:
            line, _ = listener.accept()
        except OSError:
            return
        with line:
            line.sendall(b"login: ")
            while received := line.recv(4096):
                self.heard += received
                line.sendall(received.upper())
                if self.heard.rstrip().endswith(b"poweroff"):
                    return


@pytest.fixture
def guest(agent: ScriptedAgent, records: Records) -> Iterator[Guest]:
    there = Guest(str(agent.directory / "serial.sock"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(there.path)
    listener.listen()
    thread = threading.Thread(target=there.serve, args=(listener,), daemon=True)
    thread.start()
    agent.ok("GET /v1/vms/web", records.vm(serial_socket=there.path))
    yield there
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(30)


class Terminal:
    """A pseudo-terminal with `bascule vm console web` on it."""

    def __init__(self, cli: Cli) -> None:
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.process = cli.spawn(
            "vm", "console", "web", stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True
        )
        self.shown = b""

    def wait_for(self, part: bytes) -> None:
        while part not in self.shown:
            assert select.select([self.master], [], [], 30)[0], f"{part!r} is not in {self.shown!r}"
            self.shown += os.read(self.master, 4096)

    def close(self) -> int:
        """Wait for the end, check that the terminal is as it was, and return the exit status."""
        status = self.process.wait(timeout=30)
        try:
            assert termios.tcgetattr(self.slave) == self.before
        finally:
            os.close(self.master)
            os.close(self.slave)
        return status


def test_piped_input_is_sent_and_the_answer_awaited(cli: Cli, guest: Guest) -> None:
    done = cli("vm", "console", "web", "--linger", "2s", stdin="uptime\n")

    assert (done.returncode, done.stdout, done.stderr) == (0, "login: UPTIME\n", "")


def test_a_large_pipe_arrives_whole(cli: Cli, guest: Guest) -> None:
    text = "0123456789abcde\n" * 40_000 + "poweroff\n"
    done = cli("vm", "console", "web", "--linger", "1m", stdin=text)

    assert bytes(guest.heard) == text.encode()
    assert done.stdout == "login: " + text.upper()


def test_a_terminal_is_raw_and_ctrl_bracket_leaves(cli: Cli, guest: Guest) -> None:
    terminal = Terminal(cli)
    terminal.wait_for(b"login: ")
    os.write(terminal.master, b"\x03ls\r")  # Ctrl-C belongs to the guest
    terminal.wait_for(b"LS\r")
    os.write(terminal.master, CTRL_CLOSE_BRACKET)
    terminal.wait_for(b"left the console of vm web")

    assert terminal.close() == 0
    assert bytes(guest.heard) == b"\x03ls\r"


def test_the_terminal_is_given_back_on_sigterm(cli: Cli, guest: Guest) -> None:
    terminal = Terminal(cli)
    terminal.wait_for(b"login: ")
    terminal.process.send_signal(signal.SIGTERM)

    assert terminal.close() == 128 + signal.SIGTERM


def test_the_terminal_is_given_back_when_the_vm_ends(cli: Cli, guest: Guest) -> None:
    terminal = Terminal(cli)
    terminal.wait_for(b"login: ")
    os.write(terminal.master, b"poweroff\r")
    terminal.wait_for(b"the console closed: look with: bascule vm show web")

    assert terminal.close() == 0


def test_a_guest_that_reads_nothing_does_not_lock_the_terminal(
    cli: Cli, agent: ScriptedAgent, records: Records
) -> None:
    path = str(agent.directory / "deaf.sock")
    agent.ok("GET /v1/vms/web", records.vm(serial_socket=path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        terminal = Terminal(cli)
        line, _ = listener.accept()
        terminal.wait_for(b"Ctrl-] leaves")
        line.sendall(b"go on")
        terminal.wait_for(b"go on")
        for _ in range(300):
            os.write(terminal.master, b"x" * 1024)
        os.write(terminal.master, CTRL_CLOSE_BRACKET)
        terminal.wait_for(b"left the console")
        line.close()

        assert terminal.close() == 0


def test_a_stopped_vm_has_no_console(cli: Cli, agent: ScriptedAgent, records: Records) -> None:
    agent.ok("GET /v1/vms/web", records.vm(state="stopped"))
    done = cli("vm", "console", "web")

    assert done.returncode == 1
    assert "start it with: bascule vm start web" in done.stderr


def test_a_socket_with_nobody_behind_it(cli: Cli, agent: ScriptedAgent, records: Records) -> None:
    agent.ok("GET /v1/vms/web", records.vm(serial_socket=str(agent.directory / "absent.sock")))
    done = cli("vm", "console", "web")

    assert done.returncode == 1
    assert "cannot join the console of vm web" in done.stderr


def test_a_reader_that_goes_away_ends_it(cli: Cli, guest: Guest) -> None:
    process = cli.spawn("vm", "console", "web", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.read(7) == "login: "
    process.stdout.close()
    process.stdin.write("hello\n")
    process.stdin.flush()
    assert process.wait(timeout=30) == 0
    process.stdin.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
