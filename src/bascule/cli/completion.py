"""`bascule completion`, and names completed through the agent: fast, and silent when there is none.

The silence is `main`'s: whatever goes wrong while a shell asks stays unsaid.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from bascule.cli.options import agent_socket

SHELLS = ("bash", "zsh", "fish")
TIMEOUT_S = 0.5  # nobody waits longer for a tab key


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the script that teaches SHELL to complete bascule's commands, VMs, hosts and moves.

    \b
    Examples:
      eval "$(bascule completion bash)"                                   (in ~/.bashrc)
      eval "$(bascule completion zsh)"                                    (in ~/.zshrc)
      bascule completion fish > ~/.config/fish/completions/bascule.fish
    """
    from bascule.cli.main import COMPLETE_VARIABLE  # noqa: PLC0415 - main names this module in its table
    from bascule.cli.output import say  # noqa: PLC0415 - the tab key needs no output

    found = get_completion_class(shell)
    if found is None:
        raise LookupError(f"click completes no {shell}")
    say(found(ctx.find_root().command, {}, "bascule", COMPLETE_VARIABLE).source())


def complete_vms(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a VM."""
    return _matching(_vms(ctx), incomplete)


def complete_hosts(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a host other than this one."""
    hosts = ((host["name"], host["address"]) for host in _ask(ctx, "hosts") if not host["self"])
    return _matching(hosts, incomplete)


def complete_all_hosts(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a host, this one included."""
    return _matching(((host["name"], host["address"] or "this host") for host in _ask(ctx, "hosts")), incomplete)


def complete_moves(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a move."""
    return _matching(_moves(ctx), incomplete)


def complete_vms_and_moves(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a move that is under way, or the name of its VM."""
    under_way = [move for move in _ask(ctx, "moves") if move["outcome"] is None]
    names = [(move[key], f"to {move['destination']}") for key in ("vm", "id") for move in under_way]
    return _matching(names, incomplete)


def _vms(ctx: click.Context) -> Iterable[tuple[str, str]]:
    return ((vm["name"], vm["state"]) for vm in _ask(ctx, "vms"))


def _moves(ctx: click.Context) -> Iterable[tuple[str, str]]:
    return ((move["id"], f"{move['vm']} to {move['destination']}") for move in _ask(ctx, "moves"))


def _ask(ctx: click.Context, what: str) -> list[dict[str, Any]]:
    from bascule.cli.client import AgentClient, url  # noqa: PLC0415 - only when a name is to be completed

    found: list[dict[str, Any]] = AgentClient(agent_socket(ctx)).get(url(what), timeout_s=TIMEOUT_S)
    return found


def _matching(names: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name, help=about) for name, about in names if name.startswith(incomplete)]
