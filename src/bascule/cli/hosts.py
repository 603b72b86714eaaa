"""`bascule hosts`: who this agent can move VMs to."""

from __future__ import annotations

import click

from bascule.cli.client import AgentClient, url
from bascule.cli.options import agent_socket, json_option, socket_option
from bascule.cli.output import MIB, say, say_json, size_text, table

HOSTS_TIMEOUT_S = 30.0  # the agent asks every host, and one that is down answers by its own timeout


@click.command()
@json_option
@socket_option
@click.pass_context
def hosts(ctx: click.Context, *, as_json: bool) -> None:
    """List the hosts that this host's agent knows, and how they are.

    \b
    Examples:
      bascule hosts
      bascule hosts --json
    """
    found = AgentClient(agent_socket(ctx)).get(url("hosts"), timeout_s=HOSTS_TIMEOUT_S)
    if as_json:
        say_json(found)
        return
    rows = [
        [
            f"{host['name']} (this host)" if host["self"] else host["name"],
            host["address"],
            "yes" if host["reachable"] else "NO",
            host["version"],
            host["vms"],
            host["accelerator"],
            None if host["memory_free_mib"] is None else size_text(host["memory_free_mib"] * MIB),
            host["problem"],
        ]
        for host in found
    ]
    say(table(["HOST", "ADDRESS", "REACHABLE", "VERSION", "VMS>", "ACCEL", "FREE>", "PROBLEM"], rows))
