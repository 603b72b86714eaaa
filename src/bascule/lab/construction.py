"""Building a lab, step by step. It may be broken off before, within or after any step: removal copes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from bascule.errors import Failed
from bascule.lab import agents, state
from bascule.lab.names import Member, qemu_uid
from bascule.lab.namespaces import run_batch
from bascule.lab.places import Places
from bascule.lab.requirements import has_ipv6
from bascule.lab.state import LabRecord
from bascule.lab.topology import build_batches

OnStep = Callable[[str], None]
"""Called before each step with what comes next."""


def build(
    places: Places,
    record: LabRecord,
    *,
    agent_command: agents.AgentCommand,
    agent_settings: Mapping[str, Any],
    shared_size_mib: int | None,
    agent_deadline_s: float,
    on_step: OnStep,
    lock: int,
) -> None:
    """Build everything that `record` asks for; the lab's directory exists and is locked through `lock`."""
    hosts = record.host_members
    on_step("write the record")
    for member in hosts:
        record.agent_commands[member.name] = list(agent_command(member, places.host(member.name)))
    state.write(places.record, record)
    on_step("make directories")
    _make_directories(places, hosts, agent_settings)
    on_step("make the shared directory")
    _make_shared_directory(places, shared_size_mib)
    for batch in build_batches(places.lab, record.members, link_bit_s=record.link_bit_s, ipv6=has_ipv6()):
        on_step(batch.purpose)
        run_batch(batch, keep_open=[lock])
    for member in hosts:
        on_step(f"start the agent of {member.name}")
        record.agents[member.name] = agents.start(places, member, record.agent_commands[member.name])
        on_step(f"record the agent of {member.name}")
        state.write(places.record, record)
    for member in hosts:
        on_step(f"wait for the agent of {member.name}")
        agents.wait_until_ready(places, member, record.agents[member.name], deadline_s=agent_deadline_s)
    on_step("complete the record")
    record.complete = True
    state.write(places.record, record)


def _make_directories(places: Places, hosts: list[Member], agent_settings: Mapping[str, Any]) -> None:
    places.hosts.mkdir()
    places.hosts.chmod(0o755)
    for member in hosts:
        agents.write_config(places, member, hosts, agent_settings)


def _make_shared_directory(places: Places, size_mib: int | None) -> None:
    """Make the directory for disks; with `size_mib`, one in memory that is full when it holds as much."""
    uid = qemu_uid(places.lab)
    places.shared.mkdir()
    if size_mib is not None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "bascule-lab", str(places.shared)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Failed(f"cannot mount {size_mib} MiB on {places.shared}: {done.stderr.strip()}")
    places.shared.chmod(0o770)
    os.chown(places.shared, uid, uid)
