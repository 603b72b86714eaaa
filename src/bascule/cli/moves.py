"""`bascule moves`, `bascule cancel` and `bascule report`: moves that are under way or over."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from bascule.cli.client import AgentClient, url
from bascule.cli.completion import complete_moves, complete_vms_and_moves
from bascule.cli.follow import Follower, exit_status, how_to_look
from bascule.cli.options import DURATION, agent_socket, json_option, socket_option
from bascule.cli.output import say, say_json, seconds_text, table
from bascule.cli.progress import screen_for
from bascule.cli.reports import show_report, write_html
from bascule.errors import Refused


@click.command()
@click.argument("move_id", metavar="[ID]", required=False, shell_complete=complete_moves)
@click.option("--follow", is_flag=True, help="Watch the move ID, or the newest one under way, to its end.")
@click.option("--patience", type=DURATION, default="30s", show_default=True, help="How long to wait for a lost agent.")
@json_option
@socket_option
@click.pass_context
def moves(ctx: click.Context, *, move_id: str | None, follow: bool, patience: float, as_json: bool) -> None:
    """List the moves that this host took part in, newest first, or only the move ID.

    With --follow, Ctrl-C leaves and the move goes on; the exit status is that of the move.

    \b
    Examples:
      bascule moves
      bascule moves --json
      bascule moves --follow
    """
    client = AgentClient(agent_socket(ctx))
    if follow:
        move_id = move_id or _under_way(client)["id"]
        with Follower(client, screen_for(as_json=as_json), ours=False, patience_s=patience) as follower:
            report = follower.wait(move_id)
        show_report(report, as_json=as_json)
        ctx.exit(exit_status(report.get("outcome")))
    if move_id:
        move = client.get(url("moves", move_id))
        found, shown = [move], move
    else:
        found = shown = _newest_first(client)
    if as_json:
        say_json(shown)
        return
    _say_moves(found)
    if move_id and move["reason"]:
        say(f"reason: {move['reason']}")


@click.command()
@click.argument("vm_or_id", metavar="VM|ID", shell_complete=complete_vms_and_moves)
@json_option
@socket_option
@click.pass_context
def cancel(ctx: click.Context, *, vm_or_id: str, as_json: bool) -> None:
    """Cancel the move ID, or the one that VM is in.

    Possible until the decision who runs the VM. The VM runs on here and the other host is cleaned up.

    \b
    Examples:
      bascule cancel web
    """
    client = AgentClient(agent_socket(ctx))
    move = _find(client, vm_or_id)
    answer = client.change(
        "POST",
        url("moves", move["id"], "cancel"),
        attempted=f"cancel move {move['id']} of vm {move['vm']}",
        look=how_to_look(move["id"]),
    )
    if not answer["accepted"]:
        raise Refused(
            f"cannot cancel move {move['id']} of vm {move['vm']}: {answer['message']}", how_to_look(move["id"])
        )
    if as_json:
        say_json({"id": move["id"], **answer})
    else:
        say(answer["message"])
        say(f"wait for its end with: bascule moves {move['id']} --follow")


@click.command()
@click.argument("move_id", metavar="[ID]", required=False, shell_complete=complete_moves)
@click.option("--html", "html_file", type=click.Path(dir_okay=False), help="Write a web page instead of text.")
@json_option
@socket_option
@click.pass_context
def report(ctx: click.Context, *, move_id: str | None, html_file: str | None, as_json: bool) -> None:
    """Show the report of the move ID, or of the newest one that has ended.

    \b
    Examples:
      bascule report
      bascule report --html move.html
      bascule report --json | jq .blackout_ms
    """
    client = AgentClient(agent_socket(ctx))
    if move_id is None:
        ended = [move for move in _newest_first(client) if move["outcome"] is not None]
        if not ended:
            raise Refused("there is no report yet: no move has ended on this host", "see them with: bascule moves")
        move_id = ended[0]["id"]
    found = client.get(url("moves", move_id, "report"))
    if html_file:
        write_html(found, html_file)
    if as_json or not html_file:
        show_report(found, as_json=as_json)


def _newest_first(client: AgentClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(url("moves"))
    return sorted(found, key=lambda move: str(move["started_at"]), reverse=True)


def _under_way(client: AgentClient) -> dict[str, Any]:
    for move in _newest_first(client):
        if move["outcome"] is None:
            return move
    raise Refused("there is nothing to follow: no move is under way on this host", "see them with: bascule moves")


def _find(client: AgentClient, vm_or_id: str) -> dict[str, Any]:
    """Return the move with this id, else the one under way of the VM with this name."""
    known = _newest_first(client)
    for move in known:
        if move["id"] == vm_or_id:
            return move
    for move in known:
        if move["vm"] == vm_or_id and move["outcome"] is None:
            return move
    raise Refused(
        f"there is nothing to cancel: {vm_or_id} is neither a move nor a vm that is moving",
        "see the moves with: bascule moves",
    )


def _say_moves(found: list[dict[str, Any]]) -> None:
    if not found:
        say("no moves yet; begin one with: bascule migrate VM HOST")
        return
    rows = [
        [
            move["id"],
            move["vm"],
            move["source"],
            move["destination"],
            move["mode"],
            move["outcome"] or move["phase"],
            f"{datetime.fromisoformat(move['started_at']).astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            seconds_text(move["total_s"]),
        ]
        for move in found
    ]
    say(table(["ID", "VM", "FROM", "TO", "MODE", "STATE", "STARTED (UTC)", "TIME>"], rows))
