"""`bascule status` and `bascule recover`: what is known of a VM, and an operator's way out of *unknown*."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import Any

import click

from bascule.cli.client import AgentClient, url
from bascule.cli.completion import complete_hosts, complete_vms
from bascule.cli.options import agent_socket, json_option, socket_option
from bascule.cli.output import say, say_json, table
from bascule.errors import Refused, Unknown

RECOVER_TIMEOUT_S = 60.0
UNKNOWN = "unknown"


@click.command()
@click.argument("vm", required=False, shell_complete=complete_vms)
@json_option
@socket_option
@click.pass_context
def status(ctx: click.Context, *, vm: str | None, as_json: bool) -> None:
    """Say in plain words what this host knows of VM, what would settle what is open, and what each choice risks.

    Without VM, one line for each that is here, comes in or goes out. Changes nothing. The exit status is 4 if
    anything is unknown, and 0 otherwise.

    \b
    Examples:
      bascule status
      bascule status web
      bascule status web --json | jq -r .standing       (settled, under-way or unknown)
    """
    client = AgentClient(agent_socket(ctx))
    if vm is None:
        found: list[dict[str, Any]] = client.get(url("status"))
        if as_json:
            say_json(found)
        else:
            _say_all(found)
        ctx.exit(max((_exit_status(one) for one in found), default=0))
    one = client.get(url("vms", vm, "status"))
    _say_one(one, as_json=as_json)
    ctx.exit(_exit_status(one))


@click.command()
@click.argument("vm", shell_complete=complete_vms)
@click.option("--run-here", is_flag=True, help="Let VM run on this host, by your word that the other host is down.")
@click.option(
    "--confirm-down",
    metavar="HOST",
    shell_complete=complete_hosts,
    help="The other host's name, in place of typing it when asked.",
)
@json_option
@socket_option
@click.pass_context
def recover(ctx: click.Context, *, vm: str, run_here: bool, confirm_down: str | None, as_json: bool) -> None:
    """Settle a move of VM that could not be settled by itself: try once more, at once.

    With --run-here you decide: VM runs on this host, and the other host stands down when it returns. Only do that once
    you know that the other host is down, powered off or the VM's QEMU there ended; `bascule status VM` says what it
    risks. It is refused while the other host's agent answers or anybody writes to the VM's disks. The exit status is 0
    once nothing is unknown any more, 1 if refused, and 4 if it is unknown still.

    \b
    Examples:
      bascule recover web
      bascule recover web --run-here                        (asks for the other host's name)
      bascule recover web --run-here --confirm-down h2
    """
    client = AgentClient(agent_socket(ctx))
    if confirm_down is not None and not run_here:
        raise click.UsageError("--confirm-down goes with --run-here", ctx)
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
    _say_one(answer, as_json=as_json)
    ctx.exit(_exit_status(answer))


def _exit_status(found: dict[str, Any]) -> int:
    return Unknown.exit_status if found["standing"] == UNKNOWN else 0


def _ask(found: dict[str, Any], vm: str) -> str:
    """Show what is known, and have the other host's name typed. Raises Refused for anything but that name."""
    other: str | None = found["run_here_against"]
    if other is None:
        raise Refused(
            f"cannot run vm {vm} here by your word: {found['summary']}", f"see what can be done: bascule status {vm}"
        )
    if not sys.stdin.isatty():
        raise Refused(
            f"cannot run vm {vm} here: there is no terminal to ask on whether the other host is down",
            f"once you know that it is: bascule recover {vm} --run-here --confirm-down HOST",
        )
    say(_text(found), to=sys.stderr)
    say(to=sys.stderr)
    typed: str = click.prompt("To confirm that the other host is down, type its name", err=True)
    if typed.strip() != other:
        raise Refused(
            f"cannot run vm {vm} here: the other host is {other}, and you typed {typed.strip()}",
            f"look once more: bascule status {vm}",
        )
    return other


def _say_all(found: list[dict[str, Any]]) -> None:
    if not found:
        say("no VMs here; define one with: bascule vm define FILE")
        return
    say(table(["VM", "STANDING", "WHAT IS KNOWN"], [[one["vm"], one["standing"], one["summary"]] for one in found]))
    for one in found:
        if one["standing"] == UNKNOWN:
            say(f"what can be done: bascule status {one['vm']}")


def _say_one(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        say_json(found)
    else:
        say(_text(found, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else None))


def _text(found: dict[str, Any], width: int | None = 100) -> str:
    """Return what is known as a few short paragraphs, wrapped to `width` if one is given."""
    lines = [_sentence(found["summary"])]
    for heading, sentences in (("What is known:", found["known"]), ("What would settle it:", found["settles"])):
        if sentences:
            lines += ["", heading, *(f"  {_sentence(sentence)}" for sentence in sentences)]
    if found["choices"]:
        lines += ["", "What you can do:"]
        for choice in found["choices"]:
            lines += [f"  {choice['action']}", f"    risk: {choice['risk']}"]
    return "\n".join(_wrapped(line, width) for line in lines)


def _wrapped(line: str, width: int | None) -> str:
    indent = line[: len(line) - len(line.lstrip())] + ("  " if line.startswith(" ") else "")
    if width is None or len(line) <= width:
        return line
    return textwrap.fill(line, max(width, 40), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _sentence(text: str) -> str:
    first = text[:1].upper() + text[1:] if not text.startswith("vm ") else "VM " + text[3:]
    return first if first.endswith((".", "!", "?")) else f"{first}."
