"""The entry point: the table of commands, and errors turned into sentences and exit statuses."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from bascule import __version__
from bascule.cli.lazy import LazyGroup, Place
from bascule.cli.options import socket_option
from bascule.errors import BasculeError, Unknown

COMMANDS = {
    "vm": Place("bascule.cli.vm", "vm", "Define, list, show, start, stop and delete VMs; open a console."),
    "migrate": Place("bascule.cli.migrate", "migrate", "Move a running VM to another host."),
    "cancel": Place("bascule.cli.moves", "cancel", "Cancel a move; the VM stays where it is."),
    "moves": Place("bascule.cli.moves", "moves", "List moves, or look at one."),
    "report": Place("bascule.cli.moves", "report", "Show what a move did, and what it felt like."),
    "status": Place("bascule.cli.status", "status", "Say what is known of a VM, and what can be done."),
    "recover": Place("bascule.cli.status", "recover", "Settle a move that could not be settled by itself."),
    "hosts": Place("bascule.cli.hosts", "hosts", "List the hosts that this agent knows."),
    "probe": Place("bascule.cli.probe", "probe", "Measure what a client of a VM feels."),
    "lab": Place("bascule.cli.lab", "lab", "Several hosts on this machine, to try everything."),
    "agent": Place("bascule.cli.agent", "agent", "Run this host's agent."),
    "completion": Place("bascule.cli.completion", "completion", "Print the completion script for a shell."),
}
INTERRUPTED = 130  # as shells say it: ended by SIGINT, and nothing was in progress
NOBODY_READS = 141  # as shells say it: ended by SIGPIPE
COMPLETE_VARIABLE = "_BASCULE_COMPLETE"

EPILOG = """\b
Exit status:
  0  done
  1  refused: nothing changed
  2  wrong usage
  3  failed or cancelled: the VM is safe, and the message says where
  4  unknown: bascule status VM says what would settle it

\b
Examples:
  bascule vm define web.toml
  bascule vm start web
  bascule migrate web h2 --plan
  bascule migrate web h2 --max-blackout 50ms
  bascule report --html move.html
"""


@click.group(
    cls=LazyGroup,
    places=COMMANDS,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="bascule")
@socket_option
def bascule() -> None:
    """Move running virtual machines between Linux hosts so that nobody notices.

    Every command talks to the agent of this host. `bascule COMMAND --help` shows examples.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a sign shows ?, and nothing breaks
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if COMPLETE_VARIABLE in os.environ:
            return _complete(os.environ[COMPLETE_VARIABLE])
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        from bascule.cli.output import silence  # noqa: PLC0415 - not needed on the way to --help

        silence(sys.stdout)
        return NOBODY_READS
    return status


def _run(arguments: list[str]) -> int:
    # Looked for by hand, so that it also holds for errors in the rest of the command line.
    as_json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    try:
        with bascule.make_context("bascule", arguments) as context:
            bascule.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _report_usage(error, as_json=as_json)
    except BasculeError as error:
        from bascule.cli.output import say_error  # noqa: PLC0415 - not needed on the way to --help

        say_error(error, as_json=as_json)
        return error.exit_status
    except (KeyboardInterrupt, click.Abort):
        click.echo("bascule: interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception:  # Python's own exit status would be 1, "nothing changed": a lie
        import traceback  # noqa: PLC0415 - not needed on the way to --help

        traceback.print_exc()
        click.echo("bascule: this is a defect of bascule; look at what is there before you go on", err=True)
        return Unknown.exit_status
    return 0


def _report_usage(error: click.ClickException, *, as_json: bool) -> int:
    """Say what is wrong with the command line."""
    if not as_json:
        error.show()
        return error.exit_code
    import json  # noqa: PLC0415 - not needed on the way to --help

    context = getattr(error, "ctx", None)
    remedy = f"see: {context.command_path} --help" if context else "see: bascule --help"
    record = {"kind": "usage", "message": error.format_message(), "remedy": remedy, "findings": []}
    click.echo(json.dumps({"error": record}), err=True)
    return error.exit_code


def _complete(instruction: str) -> int:
    """Answer a shell that asks for completions: never with a traceback into the user's prompt."""
    from click.shell_completion import shell_complete  # noqa: PLC0415 - shells only

    try:
        return shell_complete(bascule, {}, "bascule", COMPLETE_VARIABLE, instruction)
    except Exception:  # silence is the best answer to give a prompt
        return 1


if __name__ == "__main__":
    sys.exit(main())
