"""`Lab`: several hosts on one machine, for tests, the demo and the command line.

    with Lab("mine") as lab:                     # whatever happens in the body, nothing is left after it
        lab.up(hosts=3, link_bit_s=10**9)
        lab.request("h1", "GET", "/v1/vms")
        lab.popen("client", ["bascule", "probe", "10.77.0.50"])
        lab.cut_link("h2", Cut.BLACK_HOLE)

A lab outlives the process that built it: `Lab("mine")` elsewhere is the same lab.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from bascule.errors import Failed, Refused
from bascule.lab import agents, construction, links, removal, state
from bascule.lab.interrupts import endings_raise, interrupts_wait
from bascule.lab.links import Cut
from bascule.lab.locking import create_and_lock, is_locked, lock_existing
from bascule.lab.names import DEFAULT_LAB, SWITCH, Member, check_host_count, check_name, namespace, qemu_uid
from bascule.lab.namespaces import exec_arguments, list_namespaces
from bascule.lab.places import HostPlaces, Places
from bascule.lab.processes import Process
from bascule.lab.removal import Remains
from bascule.lab.requirements import check_machine, check_root
from bascule.lab.state import LabRecord
from bascule.lab.unix_http import NoAnswerError, request

_LOCK_WAIT_S = 10.0
_AGENT_EXIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Host:
    """One host of a lab: its name, addresses and files."""

    member: Member
    namespace: str
    places: HostPlaces

    @property
    def name(self) -> str:
        """`h1`, `h2`, ..."""
        return self.member.name

    @property
    def address(self) -> str:
        """IPv4 address, for other agents and for migration."""
        return self.member.address

    @property
    def socket(self) -> Path:
        """The agent's unix socket."""
        return self.places.socket


class Lab:
    """The lab called `name`, whether it is there yet or not. Raises `Refused` for an impossible name."""

    def __init__(self, name: str = DEFAULT_LAB) -> None:
        self.name = check_name(name)
        self.places = Places(name)
        self._is_ours = False
        self._children: list[subprocess.Popen[bytes]] = []
        self._endings = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._endings.enter_context(endings_raise())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._endings:
            if self._is_ours:
                self.down()

    def up(
        self,
        hosts: int = 3,
        *,
        link_bit_s: int | None = None,
        agent_command: agents.AgentCommand = agents.real_agent,
        agent_settings: Mapping[str, Any] = MappingProxyType({}),
        shared_size_mib: int | None = None,
        agent_deadline_s: float = agents.START_DEADLINE_S,
        on_step: construction.OnStep = lambda _step: None,
    ) -> None:
        """Build the lab and wait until all agents answer.

        `link_bit_s` limits every link. `agent_command` replaces the agent, `agent_settings` are added to the agents'
        configuration, `shared_size_mib` makes the shared directory a small one in memory. `on_step` is told each step
        before it is done.

        Raises `Refused` with nothing changed, `Failed` with everything removed again.
        """
        attempted = f"build lab {self.name}"
        check_machine(self.name, attempted)
        if finding := check_host_count(hosts):
            raise Refused.from_findings(attempted, [finding])
        with endings_raise(), create_and_lock(self.places.directory, wait_s=_LOCK_WAIT_S) as lock:
            if lock is None:
                raise self._exists(attempted)
            if list_namespaces(self.name):  # somebody removed the directory by hand
                self.places.directory.rmdir()
                raise self._is_broken(attempted)
            self._is_ours = True
            try:
                construction.build(
                    self.places,
                    LabRecord(self.name, hosts, link_bit_s),
                    agent_command=agent_command,
                    agent_settings=agent_settings,
                    shared_size_mib=shared_size_mib,
                    agent_deadline_s=agent_deadline_s,
                    on_step=on_step,
                    lock=lock,
                )
            except BaseException as error:
                with interrupts_wait():
                    removal.remove_locked(self.places, lock)
                    self._is_ours = False
                if isinstance(error, Failed):
                    raise Failed(
                        f"cannot {attempted}: {error.message}", "nothing of it is left; try again when it is mended"
                    ) from error
                raise

    def down(self) -> Remains:
        """Remove everything of the lab and say what it was; it may be broken, half-built or not there at all.

        Ends every process in the lab: VMs, agents, and what `popen` started. Signals wait until it is done.
        """
        check_root(f"remove lab {self.name}")
        with interrupts_wait():
            removed = removal.remove(self.name)
            self._is_ours = False
            for child in self._children:
                child.poll()
            self._children.clear()
        return removed

    @property
    def record(self) -> LabRecord:
        """What the lab is made of. Raises `Refused` if there is no such lab."""
        record = state.read(self.places.record)
        if record is None or not record.of_this_boot:
            known = removal.known_labs()
            raise Refused(
                f"there is no lab {self.name}",
                f"labs: {', '.join(known)}" if known else f"build it: bascule lab up {self.name}",
            )
        return record

    @property
    def hosts(self) -> list[Host]:
        """The hosts, in order."""
        return [
            Host(member, namespace(self.name, member.name), self.places.host(member.name))
            for member in self.record.host_members
        ]

    @property
    def shared_directory(self) -> Path:
        """The directory for disks and saved states, seen by all hosts; see `give_to_qemu`."""
        return self.places.shared

    @property
    def qemu_uid(self) -> int:
        """The user and group that the lab's VMs run as."""
        return qemu_uid(self.name)

    def host(self, name: str) -> Host:
        """Return host `name`. Raises `Refused` for any other name."""
        hosts = {host.name: host for host in self.hosts}
        if name not in hosts:
            raise Refused(f"lab {self.name} has no host {name}", f"hosts: {', '.join(hosts)}")
        return hosts[name]

    def give_to_qemu(self, path: Path) -> None:
        """Make the lab's QEMU user the owner of a disk image that root made."""
        os.chown(path, self.qemu_uid, self.qemu_uid)

    def command(self, member: str, argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Return the command and the environment that run `argv` in `member`: a host, `client` or `sw`."""
        names = [known.name for known in self.record.members]
        if member not in [*names, SWITCH]:
            raise Refused(f"lab {self.name} has no member {member}", f"members: {', '.join([*names, SWITCH])}")
        places = self.places.host(member) if member in self.record.agent_commands else None
        return exec_arguments(namespace(self.name, member), argv), agents.environment(self.name, places)

    def popen(self, member: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start `argv` in `member`, with the options of `subprocess.Popen`; `env` adds to the lab's own.

        The process is ended by `down` if it still runs then.
        """
        command, variables = self.command(member, argv)
        variables.update(options.pop("env", None) or {})
        child: subprocess.Popen[bytes] = subprocess.Popen(command, env=variables, **options)
        self._children.append(child)
        return child

    def run(
        self, member: str, argv: Sequence[str], *, timeout_s: float = 60.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in `member` to its end and return its status and output; the status is not checked.

        Raises `subprocess.TimeoutExpired` after `timeout_s`.
        """
        command, variables = self.command(member, argv)
        return subprocess.run(
            command,
            env=variables | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def request(self, host: str, method: str, path: str, body: Any = None, *, timeout_s: float = 60.0) -> Any:
        """Ask the agent of `host` and return the decoded answer. Raises `Failed` for anything but success."""
        attempted = f"{method} {path} on {host}"
        try:
            status, answer = request(self.host(host).socket, method, path, body, timeout_s=timeout_s)
        except NoAnswerError as silence:
            raise Failed(f"no answer to {attempted}: {silence}") from silence
        if not 200 <= status < 300:
            raise Failed(f"{attempted} was answered with HTTP status {status}: {answer}")
        return answer

    def cut_link(self, member: str, how: Cut = Cut.BLACK_HOLE) -> None:
        """Cut the link between `member` (a host or `client`) and the switch."""
        self._check_linked(member)
        links.cut(self.name, member, how)

    def heal_link(self, member: str) -> None:
        """Undo `cut_link`, and wait until frames pass again. A healthy link stays as it is."""
        self._check_linked(member)
        links.heal(self.name, member)

    def agent(self, host: str) -> Process:
        """Return the process of the agent of `host`, dead or alive."""
        self.host(host)
        return self.record.agents[host]

    def signal_agent(self, host: str, number: signal.Signals) -> None:
        """Send a signal to the agent of `host` and do not wait: SIGSTOP and SIGCONT, for instance."""
        agents.send(self.agent(host), number, exit_within_s=None)

    def kill_agent(self, host: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End the agent of `host` by a signal and wait for its exit. The VMs run on."""
        if not agents.send(self.agent(host), number, exit_within_s=_AGENT_EXIT_S):
            raise Failed(f"the agent of {host} still runs {_AGENT_EXIT_S:g} s after signal {number.name}")

    def start_agent(self, host: str, *, deadline_s: float = agents.START_DEADLINE_S) -> None:
        """Start the agent of `host` again, with the command it had, and wait until it answers."""
        member = self.host(host).member
        with lock_existing(self.places.directory, wait_s=_LOCK_WAIT_S):
            record = self.record
            if record.agents[host].is_alive():
                raise Refused(f"the agent of {host} already runs", "end it first")
            process = agents.start(self.places, member, record.agent_commands[host])
            record.agents[host] = process
            state.write(self.places.record, record)
        agents.wait_until_ready(self.places, member, process, deadline_s=deadline_s)

    def _check_linked(self, member: str) -> None:
        names = [known.name for known in self.record.members]
        if member not in names:
            raise Refused(f"lab {self.name} has no link to {member}", f"links: {', '.join(names)}")

    def _exists(self, attempted: str) -> Refused:
        if is_locked(self.places.directory):
            return Refused(
                f"cannot {attempted}: another process builds or removes it now", "wait, or take another name"
            )
        record = state.read(self.places.record)
        if record is None or not record.complete or not record.of_this_boot:
            return self._is_broken(attempted)
        return Refused(
            f"cannot {attempted}: it is there already",
            f"see it: bascule lab status {self.name}; remove it: bascule lab down {self.name}; or take another name",
        )

    def _is_broken(self, attempted: str) -> Refused:
        return Refused(
            f"cannot {attempted}: there are remains of one of that name, whose building or removal was broken off",
            f"remove them: bascule lab down {self.name}",
        )
