"""`bascule agent`: run this host's agent in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

DEFAULT_CONFIG = "/etc/bascule/agent.toml"


@click.command()
@click.option(
    "--config",
    "config_path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    help="The agent's configuration.",
)
@click.option(
    "--insecure-listen",
    metavar="ADDRESS:PORT",
    help="Also listen for other agents on TCP, without any authentication. For labs and trusted networks.",
)
def agent(*, config_path: Path, insecure_listen: str | None) -> None:
    """Run this host's agent until it gets SIGTERM. The VMs run on, and the next agent adopts them.

    Log lines go to stderr.

    \b
    Examples:
      bascule agent
      bascule agent --config h1.toml --insecure-listen 10.0.0.1:7440
    """
    from bascule.agent.daemon import run  # noqa: PLC0415 - --help needs no web server

    run(config_path, insecure_listen)
