"""The lab's agents: their settings, their start inside a host's namespace, and the wait until they answer."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bascule.errors import Failed
from bascule.lab.names import Member, namespace, qemu_uid
from bascule.lab.namespaces import exec_arguments
from bascule.lab.newer_qemu import lab_qemu
from bascule.lab.patience import patience
from bascule.lab.places import CACHE, HostPlaces, Places
from bascule.lab.processes import MARK, Process, send_and_wait
from bascule.lab.unix_http import NoAnswerError, request

START_DEADLINE_S = 60.0 * patience()
_BETWEEN_TRIES_MS = 25
_LOG_LINES = 15
_LOG_TAIL_BYTES = 8192

AgentCommand = Callable[[Member, HostPlaces], Sequence[str]]
"""What to run as the agent of a host; tests put a stand-in here."""

# Children of this process, kept so that their exit status is collected and nobody complains that they run on:
# agents are meant to outlive the command that started them.
_children: dict[int, subprocess.Popen[bytes]] = {}


def real_agent(member: Member, places: HostPlaces) -> list[str]:
    """Return the command of the real agent, under this very Python."""
    return [
        *(sys.executable, "-m", "bascule.cli.main", "agent"),
        *("--config", str(places.config), "--insecure-listen", member.listen),
    ]


def write_config(places: Places, member: Member, hosts: Sequence[Member], extra: Mapping[str, Any]) -> None:
    """Make the host's directories and the settings of its agent; `extra` are added to these."""
    host = places.host(member.name)
    for directory in (host.directory, host.state, host.run):
        directory.mkdir()
        directory.chmod(0o755)
    settings = {
        "qemu_binary": lab_qemu(CACHE),
        "name": member.name,
        "socket": str(host.socket),
        "state_directory": str(host.state),
        "runtime_directory": str(host.run),
        "cache_directory": str(CACHE),
        "migration_address": member.address,
        "qemu_user": qemu_uid(places.lab),
        "shared_directories": [str(places.shared)],
        **extra,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]  # such JSON is TOML as well
    lines += ["", "[hosts]", *(f"{other.name} = {json.dumps(other.listen)}" for other in hosts)]
    host.config.write_text("\n".join(lines) + "\n")


def environment(lab: str, places: HostPlaces | None) -> dict[str, str]:
    """Return the environment of a process in the lab: `bascule` on PATH, talking to the host's own agent."""
    variables = dict(os.environ)
    variables.pop("BASCULE_SOCKET", None)
    variables[MARK] = lab
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])
    if places is not None:
        variables["BASCULE_SOCKET"] = str(places.socket)
    return variables


def start(places: Places, member: Member, argv: Sequence[str]) -> Process:
    """Start the agent of `member` in its namespace, in a session of its own. Raises `Failed` if it ends at once."""
    host = places.host(member.name)
    with host.log.open("ab") as log:
        child = subprocess.Popen(
            exec_arguments(namespace(places.lab, member.name), argv),
            cwd="/",
            env=environment(places.lab, host),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children[child.pid] = child
    process = Process.of(child.pid)
    if process is None:
        raise _died(member, host, child.pid)
    return process


def wait_until_ready(
    places: Places, member: Member, process: Process, *, deadline_s: float = START_DEADLINE_S
) -> Mapping[str, Any]:
    """Wait until the agent answers GET /v1/host, and return its answer.

    Raises `Failed` with the last lines of its log as soon as the agent exits, or when `deadline_s` has passed.
    """
    host = places.host(member.name)
    give_up_s = time.monotonic() + deadline_s
    problem = "nothing yet"
    while process.is_alive():
        try:
            status, answer = request(host.socket, "GET", "/v1/host", timeout_s=5)
            if status == 200 and isinstance(answer, dict):
                return answer
            problem = f"HTTP status {status}"
        except NoAnswerError as silence:
            problem = str(silence)
        if time.monotonic() > give_up_s:
            raise Failed(
                f"the agent of {member.name} does not answer after {deadline_s:g} s ({problem});"
                f" the end of its log:\n{log_tail(host)}"
            )
        _wait_for_exit(process, _BETWEEN_TRIES_MS)
    raise _died(member, host, process.pid)


def send(process: Process, number: signal.Signals, *, exit_within_s: float | None) -> bool:
    """Send a signal to an agent and, if `exit_within_s` is given, wait for its exit; False if it did not."""
    gone = send_and_wait([process], [number], timeout_s=exit_within_s or 0)
    collect_exited()
    return gone


def collect_exited() -> None:
    """Collect the exit status of those of this process's agents that have ended."""
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            del _children[pid]


def log_tail(places: HostPlaces) -> str:
    """Return the last lines of the agent's log, indented."""
    try:
        with places.log.open("rb") as log:
            log.seek(max(0, places.log.stat().st_size - _LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
    except FileNotFoundError:
        lines = []
    return "\n".join(f"    {line}" for line in lines or ["(empty)"])


def _died(member: Member, places: HostPlaces, pid: int) -> Failed:
    child = _children.get(pid)
    status = child.poll() if child else None
    collect_exited()
    how = "ended" if status is None else f"ended with status {status}" if status >= 0 else f"died of signal {-status}"
    return Failed(f"the agent of {member.name} {how}; the end of its log:\n{log_tail(places)}")


def _wait_for_exit(process: Process, timeout_ms: float) -> None:
    """Return when `process` exits, or after `timeout_ms`."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        waiting.poll(timeout_ms)
    finally:
        os.close(descriptor)
