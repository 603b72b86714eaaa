"""Two real agents beside each other on the loopback interface, with the fake QEMU and VMs without a network.

They need no lab and no privilege but root's for the agents. Their addresses are made from this process's number, so
that several pairs do not meet.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bascule.errors import Failed
from bascule.lab.interrupts import endings_raise, interrupts_wait
from bascule.lab.unix_http import NoAnswerError, request
from bascule.qemu.process_record import find_in

PORT = 7440
READY_S = 60.0
EXIT_S = 20.0
LOOK_S = 0.05
NAMES = ("h1", "h2")


@contextmanager
def pair(settings: Mapping[str, Any]) -> Iterator[dict[str, Path]]:
    """Start two agents; yield their unix sockets by name; end them and all that is theirs.

    `settings` are added to both agents' configuration. Raises Failed if one does not come up.
    """
    directory = Path(tempfile.mkdtemp(prefix="bascule-soak-"))
    agents: list[subprocess.Popen[bytes]] = []
    sockets = {name: directory / name / "agent.sock" for name in NAMES}
    with endings_raise(), _taken_down(directory, agents):
        program = directory / "fake-qemu"
        shutil.copyfile(Path(__file__).with_name("fake_qemu.py"), program)
        program.chmod(0o755)
        addresses = {name: _address(number) for number, name in enumerate(NAMES, 1)}
        agents.extend(_start(directory, name, addresses, {"qemu_binary": str(program), **settings}) for name in NAMES)
        for name, agent in zip(NAMES, agents, strict=True):
            _wait_until_ready(directory / name, sockets[name], agent)
        yield sockets


@contextmanager
def _taken_down(directory: Path, agents: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    try:
        yield
    finally:
        with interrupts_wait():
            _end(directory, agents)
            shutil.rmtree(directory)


def _address(number: int) -> str:
    high, low = divmod(os.getpid() % 60_000, 250)
    return f"127.{high + 1}.{low + 1}.{number}"


def _start(
    directory: Path, name: str, addresses: Mapping[str, str], settings: Mapping[str, Any]
) -> subprocess.Popen[bytes]:
    own, shared = directory / name, directory / "shared"
    own.mkdir()
    shared.mkdir(exist_ok=True)
    values = {
        "name": name,
        "socket": str(own / "agent.sock"),
        "state_directory": str(own / "state"),
        "runtime_directory": str(own / "run"),
        "cache_directory": str(own / "cache"),
        "migration_address": addresses[name],
        "qemu_user": os.getuid(),
        "shared_directories": [str(shared)],
        **settings,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]  # such JSON is TOML as well
    lines += ["[hosts]", *(f'{other} = "{address}:{PORT}"' for other, address in addresses.items())]
    config = own / "agent.toml"
    config.write_text("\n".join(lines) + "\n")
    with (own / "agent.log").open("wb") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "bascule.cli.main", "agent"),
                *("--config", str(config), "--insecure-listen", f"{addresses[name]}:{PORT}"),
            ],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a signal to this process's group is for it to take the pair down
        )


def _wait_until_ready(own: Path, socket: Path, agent: subprocess.Popen[bytes]) -> None:
    give_up_s = time.monotonic() + READY_S
    problem = ""
    while agent.poll() is None and time.monotonic() < give_up_s:
        try:
            if request(socket, "GET", "/v1/host")[0] == 200:
                return
        except NoAnswerError as silence:
            problem = str(silence)
        time.sleep(LOOK_S)
    said = (own / "agent.log").read_text(errors="replace")[-2000:]
    raise Failed(f"an agent of the pair did not come up ({problem or 'it ended'}); its log:\n{said}")


def _end(directory: Path, agents: list[subprocess.Popen[bytes]]) -> None:
    """End the agents, and then their VMs, which outlive them."""
    for agent in agents:
        agent.terminate()
    for agent in agents:
        try:
            agent.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
    for vm in directory.glob("*/run/vms/*"):
        for record in find_in(str(vm)):
            with suppress(ProcessLookupError):
                os.kill(record.pid, signal.SIGKILL)
