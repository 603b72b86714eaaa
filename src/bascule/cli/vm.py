"""`bascule vm`: the VMs of this host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bascule.cli.client import AgentClient, url
from bascule.cli.completion import complete_vms
from bascule.cli.options import DURATION, agent_socket, json_option, socket_option
from bascule.cli.output import MIB, say, say_json, size_text, table
from bascule.errors import Refused

STOP_MARGIN_S = 30.0  # what the agent may need beyond the time that the guest is given


@click.group()
@socket_option
def vm() -> None:
    """Define, list, show, start, stop and delete this host's VMs; open a console.

    \b
    Examples:
      bascule vm define web.toml
      bascule vm start web
      bascule vm list
    """


@vm.command()
@click.argument("file", type=click.Path(allow_dash=True))
@json_option
@socket_option
@click.pass_context
def define(ctx: click.Context, *, file: str, as_json: bool) -> None:
    """Define a VM from a TOML FILE, or from standard input when FILE is `-`.

    All mistakes in the file are reported at once. The VM is not started.

    \b
    Examples:
      bascule vm define web.toml
      sed s/web/web2/ web.toml | bascule vm define -
    """
    origin = "standard input" if file == "-" else file
    try:
        toml = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise Refused(f"cannot read {origin}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"cannot read {origin}: it is not UTF-8 text", "a VM is defined by a TOML file") from error
    answer = _client(ctx).change(
        "POST",
        url("vms"),
        {"toml": toml, "origin": origin},
        attempted=f"define a vm from {origin}",
        look="see whether it is there with: bascule vm list",
    )
    _say_vm(answer, f"defined vm {answer['name']}; start it with: bascule vm start {answer['name']}", as_json)


@vm.command("list")
@json_option
@socket_option
@click.pass_context
def list_vms(ctx: click.Context, *, as_json: bool) -> None:
    """List this host's VMs.

    \b
    Examples:
      bascule vm list
      bascule vm list --json
    """
    found = _client(ctx).get(url("vms"))
    if as_json:
        say_json(found)
    elif not found:
        say("no VMs here yet; define one with: bascule vm define FILE")
    else:
        rows = [
            [
                v["name"],
                v["state"],
                None if v["memory_mib"] is None else size_text(v["memory_mib"] * MIB),
                v["vcpus"],
                v["accelerator"],
                v["pid"],
                v["move"],
            ]
            for v in found
        ]
        say(table(["NAME", "STATE", "MEMORY>", "VCPUS>", "ACCEL", "PID>", "MOVE"], rows))


@vm.command()
@click.argument("name", shell_complete=complete_vms)
@click.option("--toml", "as_toml", is_flag=True, help="Print the definition as a TOML file.")
@json_option
@socket_option
@click.pass_context
def show(ctx: click.Context, *, name: str, as_toml: bool, as_json: bool) -> None:
    """Show everything about one VM.

    \b
    Examples:
      bascule vm show web
      bascule vm show web --toml > web.toml
    """
    if as_toml and as_json:
        raise click.UsageError("--toml and --json exclude each other", ctx)
    found = _client(ctx).get(url("vms", name))
    if as_json:
        say_json(found)
    elif as_toml:
        if found["definition"] is None:
            raise Refused(f"vm {name} is just coming in: its definition is not here yet", _look(name))
        from bascule.vm.serialise import from_dict, to_toml  # noqa: PLC0415 - for --toml only

        say(to_toml(from_dict(found["definition"])).rstrip("\n"))
    else:
        shown = {key: value for key, value in found.items() if key != "definition"}
        shown |= {key: value for key, value in (found["definition"] or {}).items() if key not in shown}
        say("\n".join(f"{key + ':':<16}{_plain(value)}" for key, value in shown.items()))


@vm.command()
@click.argument("name", shell_complete=complete_vms)
@json_option
@socket_option
@click.pass_context
def start(ctx: click.Context, *, name: str, as_json: bool) -> None:
    """Start a VM on this host.

    \b
    Examples:
      bascule vm start web
    """
    answer = _client(ctx).change(
        "POST", url("vms", name, "start"), {"paused": False}, attempted=f"start vm {name}", look=_look(name)
    )
    _say_vm(answer, f"vm {name} is {answer['state']} (accelerator {answer['accelerator']})", as_json)


@vm.command()
@click.argument("name", shell_complete=complete_vms)
@click.option("--force", is_flag=True, help="Cut the power at once instead of asking the guest.")
@click.option(
    "--timeout", type=DURATION, default="60s", show_default=True, help="How long the guest may take to shut down."
)
@json_option
@socket_option
@click.pass_context
def stop(ctx: click.Context, *, name: str, force: bool, timeout: float, as_json: bool) -> None:
    """Stop a VM: press its power button and wait for the guest to shut down.

    \b
    Examples:
      bascule vm stop web
      bascule vm stop web --timeout 5m
      bascule vm stop web --force
    """
    answer = _client(ctx).change(
        "POST",
        url("vms", name, "stop"),
        {"force": force, "timeout_s": timeout},
        attempted=f"stop vm {name}",
        look=_look(name),
        timeout_s=timeout + STOP_MARGIN_S,
    )
    _say_vm(answer, f"vm {name} is {answer['state']}", as_json)


@vm.command()
@click.argument("name", shell_complete=complete_vms)
@json_option
@socket_option
@click.pass_context
def delete(ctx: click.Context, *, name: str, as_json: bool) -> None:
    """Delete a stopped VM's definition. Its disks stay.

    \b
    Examples:
      bascule vm delete web
    """
    answer = _client(ctx).change("DELETE", url("vms", name), attempted=f"delete vm {name}", look=_look(name))
    _say_vm(answer, f"deleted vm {name}; its disks are untouched", as_json)


@vm.command()
@click.argument("name", shell_complete=complete_vms)
@click.option(
    "--linger",
    type=DURATION,
    default="1s",
    show_default=True,
    help="With piped input: leave once the guest has been silent for so long after the input's end.",
)
@socket_option
@click.pass_context
def console(ctx: click.Context, *, name: str, linger: float) -> None:
    """Join this terminal to the VM's serial console. Ctrl-] leaves.

    \b
    Examples:
      bascule vm console web
      echo uptime | bascule vm console web
    """
    from bascule.cli.console import join  # noqa: PLC0415 - terminals only here

    found = _client(ctx).get(url("vms", name))
    if found["serial_socket"] is None:
        raise Refused(
            f"vm {name} has no console now: it is {found['state']}", f"start it with: bascule vm start {name}"
        )
    join(name, found["serial_socket"], linger_s=linger)


def _client(ctx: click.Context) -> AgentClient:
    return AgentClient(agent_socket(ctx))


def _look(name: str) -> str:
    return f"look with: bascule vm show {name}"


def _say_vm(answer: Any, text: str, as_json: bool) -> None:
    if as_json:
        say_json(answer)
    else:
        say(text)


def _plain(value: Any) -> str:
    """Return a value for people: `-` for nothing, one line for what is nested."""
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return "; ".join(_plain(item) for item in value)
    return str(value)
