"""`bascule status` and `bascule recover`: what is known of a VM, and an operator's way out of *unknown*."""

from __future__ import annotations

import sys
from typing import Any

import click

from bascule.cli.client import AgentClient, url
from bascule.cli.completion import complete_vms
from bascule.cli.options import agent_socket, json_option, socket_option
from bascule.cli.output import say, say_json
from bascule.errors import Refused, Unknown

RECOVER_TIMEOUT_S = 60.0


@click.command()
@click.argument("vm", shell_complete=complete_vms)
@json_option
@socket_option
@click.pass_context
def status(ctx: click.Context, *, vm: str, as_json: bool) -> None:
    """Say in plain words what this host knows of VM, what would settle what is open, and what each choice risks.

    \b
    Examples:
      bascule status web
      bascule status web --json
    """
    found = AgentClient(agent_socket(ctx)).get(url("vms", vm, "status"))
    _say(found, as_json=as_json)


@click.command()
@click.argument("vm", shell_complete=complete_vms)
@click.option("--run-here", is_flag=True, help="Let VM run on this host, by your word that the other host is down.")
@click.option("--confirm-down", metavar="HOST", help="The other host's name, in place of typing it when asked.")
@json_option
@socket_option
@click.pass_context
def recover(ctx: click.Context, *, vm: str, run_here: bool, confirm_down: str | None, as_json: bool) -> None:
    """Settle a move of VM that could not be settled by itself: try once more, at once.

    With --run-here you decide: VM runs on this host, and the other host stands down when it returns. Only do that once
    you know that the other host is down, powered off or its QEMU ended; `bascule status VM` says what it risks.

    \b
    Examples:
      bascule recover web
      bascule recover web --run-here
      bascule recover web --run-here --confirm-down h2
    """
    client = AgentClient(agent_socket(ctx))
    if confirm_down is not None and not run_here:
        raise click.UsageError("--confirm-down goes with --run-here")
    if run_here and confirm_down is None:
        confirm_down = _ask(client.get(url("vms", vm, "status")), vm)
    answer = client.change(
        "POST",
        url("vms", vm, "recover"),
        {"run_here": run_here, "confirmed_down": confirm_down},
        attempted=f"recover vm {vm}",
        look=f"look with: bascule status {vm}",
        timeout_s=RECOVER_TIMEOUT_S,
    )
    _say(answer, as_json=as_json)
    if not answer["settled"]:
        ctx.exit(Unknown.exit_status)


def _ask(found: dict[str, Any], vm: str) -> str:
    """Show what is known, and have the other host's name typed."""
    if found["move"] is None:
        raise Refused(f"cannot run vm {vm} here by your word: {found['summary']}; no move of it is unsettled")
    if not sys.stdin.isatty():
        raise Refused(
            f"cannot run vm {vm} here: nobody can be asked whether the other host is down",
            f"once you know that it is: bascule recover {vm} --run-here --confirm-down HOST",
        )
    click.echo(_text(found), err=True)
    name: str = click.prompt("To confirm that the other host is down, type its name", err=True)
    return name.strip()


def _say(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        say_json(found)
    else:
        say(_text(found))


def _text(found: dict[str, Any]) -> str:
    """Return what is known as a few short paragraphs."""
    lines = [_sentence(found["summary"])]
    if found["known"]:
        lines += ["", "What is known:", *(f"  {sentence}" for sentence in found["known"])]
    if found["settles"]:
        lines += ["", "What would settle it:", *(f"  {sentence}" for sentence in found["settles"])]
    if found["choices"]:
        lines += ["", "What you can do:"]
        for choice in found["choices"]:
            lines += [f"  {choice['action']}", f"    risk: {choice['risk']}"]
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
