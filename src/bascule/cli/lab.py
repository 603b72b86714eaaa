"""`bascule lab`: several hosts on this machine."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click

from bascule.cli.options import json_option
from bascule.cli.output import say, say_json, table
from bascule.errors import Refused

# ruff: noqa: PLC0415 - `bascule lab --help` needs nothing of what builds a lab


@click.group()
def lab() -> None:
    """Several hosts on this machine, each with its own network, bridge and agent: to try everything.

    \b
    Examples:
      bascule lab up --hosts 3 --link 1gbit
      bascule lab run h1 -- bascule vm list
      bascule lab run client -- bascule probe 10.77.0.50
      bascule lab down
    """


@lab.command()
@click.argument("name", default="lab")
@click.option("--hosts", metavar="N", type=int, default=3, show_default=True, help="How many hosts.")
@click.option("--link", metavar="RATE", help="Limit every link, as in 1gbit or 100mbit.  [default: unlimited]")
@click.option("-v", "--verbose", is_flag=True, help="Name each step on stderr.")
def up(*, name: str, hosts: int, link: str | None, verbose: bool) -> None:
    """Build a lab called NAME (default: lab) and start its agents.

    Each host is a network namespace with a bridge, an uplink to a common switch and a real agent. They share a
    directory for disks. A client is on the same network. The lab stays until `bascule lab down`.

    \b
    Examples:
      bascule lab up
      bascule lab up slow --hosts 2 --link 100mbit
    """
    from bascule.lab.laboratory import Lab
    from bascule.lab.links import parse_rate

    start_s = time.monotonic()
    the_lab = Lab(name)
    the_lab.up(
        hosts,
        link_bit_s=None if link is None else parse_rate(link),
        on_step=(lambda step: say(f"{time.monotonic() - start_s:7.3f} s  {step}", to=sys.stderr))
        if verbose
        else lambda _step: None,
    )
    say(f"lab {name} is up after {time.monotonic() - start_s:.1f} s")
    option = "" if name == "lab" else f"--lab {name} "
    say(f"try: bascule lab run {option}h1 -- bascule hosts")


@lab.command()
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="Remove every lab of this machine.")
def down(*, name: str | None, every: bool) -> None:
    """Remove the lab called NAME (default: lab) with its VMs, also when it is broken or half-built.

    \b
    Examples:
      bascule lab down
      bascule lab down slow
      bascule lab down --all
    """
    from bascule.lab.laboratory import Lab
    from bascule.lab.removal import known_labs
    from bascule.lab.requirements import check_root

    if every and name:
        raise click.UsageError("give a NAME or --all, not both")
    check_root("remove a lab")
    names = known_labs() if every else [name or "lab"]
    for each in names:
        removed = Lab(each).down()
        if not removed:
            others = [other for other in known_labs() if other != each]
            say(f"there is no lab {each}" + (f"; labs: {', '.join(others)}" if others else ""))
            continue
        say(f"removed lab {each}:")
        for line in removed.lines():
            say(f"  {line}")
    if not names:
        say("there is no lab")


@lab.command()
@click.argument("name", required=False)
@json_option
def status(*, name: str | None, as_json: bool) -> None:
    """Show the lab called NAME, or all labs: hosts, agents, VMs and links.

    With --json, a list of labs.

    \b
    Examples:
      bascule lab status
      bascule lab status slow --json
    """
    from bascule.lab.names import check_name
    from bascule.lab.removal import known_labs
    from bascule.lab.requirements import check_root
    from bascule.lab.status import look

    check_root("look at a lab")
    names = known_labs()
    if name is not None and check_name(name) not in names:
        raise Refused(f"there is no lab {name}", f"labs: {', '.join(names) or 'none'}")
    found = [look(each) for each in ([name] if name else names)]
    if as_json:
        say_json(found)
        return
    if not found:
        say("there is no lab; build one: bascule lab up")
    for each in found:
        _say_lab(each)


@lab.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--lab", "name", metavar="NAME", help="Which lab.  [default: the only one, else lab]")
@click.argument("member", metavar="HOST|client")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(*, name: str | None, member: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on a host of the lab or on its client, as if you sat there.

    `bascule` talks to that host's agent. The exit status is the command's own.

    \b
    Examples:
      bascule lab run h1 -- bascule vm list
      bascule lab run --lab slow client -- ip address
      bascule lab run h2 -- bash
    """
    from bascule.lab.laboratory import Lab
    from bascule.lab.removal import known_labs
    from bascule.lab.requirements import check_root

    argv = list(command[1:] if command[0] == "--" else command)
    if not argv:
        raise click.UsageError("give a COMMAND after --")
    check_root("enter a lab")
    known = known_labs()
    inside, variables = Lab(name or (known[0] if len(known) == 1 else "lab")).command(member, argv)
    os.execve(inside[0], inside, variables)  # noqa: S606 - to become the command is what passes signals and status on


def _say_lab(found: dict[str, Any]) -> None:
    say(f"lab {found['name']}: {found['state']}, links {found['link']}, disks in {found['shared_directory']}")
    if not found["hosts"]:
        if found["state"] == "broken":
            say(f"  remove what is left of it: bascule lab down {found['name']}")
        return
    rows = [
        [
            f"  {host['name']}",
            host["address"],
            host["link"],
            host["agent"]["problem"] or f"answers (pid {host['agent']['pid']})",
            ", ".join(f"{vm['name']} {vm['state']}" for vm in host["vms"] or ()),
        ]
        for host in found["hosts"]
    ]
    client = found["client"]
    rows.append(["  client", client["address"], client["link"], None, None])
    say(table(["  MEMBER", "ADDRESS", "LINK", "AGENT", "VMS"], rows))
