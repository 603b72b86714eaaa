"""`bascule migrate`: ask this host's agent to move a VM, and watch the move to its end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from bascule.cli.client import AgentClient, url
from bascule.cli.completion import complete_all_hosts, complete_hosts, complete_vms
from bascule.cli.follow import Follower, exit_status
from bascule.cli.options import DURATION, agent_socket, json_option, socket_option
from bascule.cli.output import say, say_error, say_json, seconds_text
from bascule.cli.progress import Screen, screen_for
from bascule.cli.reports import show_report, write_html
from bascule.errors import BasculeError, Failed, Finding, Refused

if TYPE_CHECKING:
    from bascule.cli.probe_wish import Wish


class _Migrate(click.Command):
    """Says what became of an argument that `--probe`, whose value may be left out, has taken for its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line. Raises click.UsageError."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            taken = [after for before, after in pairwise(given) if before == "--probe" and not after.startswith("-")]
            if not taken:
                raise
            named = str(error.param.human_readable_name) if error.param else "an argument"
            raise click.UsageError(
                f"{named} is missing: --probe has taken '{taken[0]}' for how to ask. Put VM and HOST before it, as in"
                f" bascule migrate {taken[0]} HOST --probe, or say how to ask, as in --probe=icmp",
                ctx,
            ) from error


@click.command(cls=_Migrate)
@click.argument("vm", shell_complete=complete_vms)
@click.argument("host", shell_complete=complete_hosts)
@click.option("--quick", is_flag=True, help="Quick Migration: save the VM to shared storage, restore it there.")
@click.option("--plan", is_flag=True, help="Only check and forecast; exit 0 if it can be done, 1 if not.")
@click.option(
    "--max-blackout",
    type=DURATION,
    default="100ms",
    show_default=True,
    help="The longest time without a running vCPU. The VM stays where it is if this cannot be met.",
)
@click.option(
    "--deadline", type=DURATION, default="10m", show_default=True, help="Give up after so long; the VM stays."
)
@click.option("--html", "html_file", type=click.Path(dir_okay=False), help="Also write the report as a web page.")
@click.option("--detach", is_flag=True, help="Start the move, print its id and leave it to the agent.")
@click.option(
    "--patience",
    type=DURATION,
    default="30s",
    show_default=True,
    help="How long to wait for an agent that was lost midway.",
)
@click.option(
    "--probe",
    "probes",
    multiple=True,
    is_flag=False,
    flag_value="",
    metavar="[HOW]",
    help="Watch the move as a client on this host would: by ICMP, or as in 10.77.0.50, udp:7, bulk:7, connect:22, arp,"
    " http://10.77.0.50/. May be given several times; the report draws the first and tells of all.",
)
@click.option(
    "--probe-hz",
    type=click.FloatRange(0, 10_000, min_open=True),
    help="Times a second.  [default: 1000; for connect 100]",
)
@click.option(
    "--probe-from",
    metavar="HOST",
    shell_complete=complete_all_hosts,
    help="Let this host's agent probe, not the one here: a client elsewhere in the network.",
)
@json_option
@socket_option
@click.pass_context
def migrate(
    ctx: click.Context,
    *,
    vm: str,
    host: str,
    quick: bool,
    plan: bool,
    max_blackout: float,
    deadline: float,
    html_file: str | None,
    detach: bool,
    patience: float,
    probes: tuple[str, ...],
    probe_hz: float | None,
    probe_from: str | None,
    as_json: bool,
) -> None:
    """Move the running VM to HOST.

    The VM runs on during the move and is stopped for less than the maximum blackout at its end. Ctrl-C
    cancels the move: the VM stays here. The exit status says how it ended: 0 completed, 1 refused,
    3 failed or cancelled (the VM is safe), 4 unknown.

    \b
    Examples:
      bascule migrate web h2
      bascule migrate web h2 --plan
      bascule migrate web h2 --max-blackout 50ms --deadline 2m --html move.html
      bascule migrate web h2 --probe
      bascule migrate web h2 --probe 10.77.0.50 --probe connect:443 --json
      bascule migrate web h2 --probe udp:7 --probe-from h3
      bascule migrate web h2 --probe bulk:7 --html move.html
      bascule migrate web h2 --quick --json > move.json
    """
    if plan and (detach or html_file):
        raise click.UsageError("--plan moves nothing: it goes with neither --detach nor --html", ctx)
    if detach and html_file:
        raise click.UsageError("--detach does not wait for the report: use bascule report --html later", ctx)
    if probe_from is not None and not probes:
        probes = ("",)
    if probes and (plan or detach):
        raise click.UsageError("--probe watches a move to its end: it goes with neither --plan nor --detach", ctx)
    wishes = _wishes(ctx, probes)
    client = AgentClient(agent_socket(ctx))
    request = {
        "vm": vm,
        "destination": host,
        "mode": "quick" if quick else "live",
        "max_blackout_ms": round(max_blackout * 1000, 3),
        "deadline_s": deadline,
    }
    if plan:
        _plan(ctx, client, request, as_json=as_json)
    elif detach:
        started = _start(client, request)
        if as_json:
            say_json(started)
        else:
            say(f"move {started['id']} has begun; watch it with: bascule moves {started['id']} --follow")
    elif wishes:
        ctx.exit(
            _watched(
                client,
                request,
                wishes,
                probe_hz,
                probe_from=probe_from,
                patience_s=patience,
                html_file=html_file,
                as_json=as_json,
            )
        )
    else:
        report = _followed(client, request, screen_for(as_json=as_json), patience)
        ctx.exit(_tell(report, html_file, as_json=as_json))


def _start(client: AgentClient, request: dict[str, Any]) -> dict[str, Any]:
    started: dict[str, Any] = client.change(
        "POST",
        url("moves"),
        request,
        attempted=f"migrate vm {request['vm']} to {request['destination']}",
        look="see whether the move has begun with: bascule moves",
    )
    return started


def _wishes(ctx: click.Context, texts: Sequence[str]) -> list[Wish]:
    """Read what `--probe` was told."""
    if not texts:
        return []
    from bascule.cli.probe_wish import parse_wish  # noqa: PLC0415 - only where a probe is asked for

    try:
        return [parse_wish(text) for text in texts]
    except ValueError as error:
        raise click.UsageError(f"--probe: {error}", ctx) from error


def _watched(
    client: AgentClient,
    request: dict[str, Any],
    wishes: Sequence[Wish],
    hz: float | None,
    *,
    probe_from: str | None,
    patience_s: float,
    html_file: str | None,
    as_json: bool,
) -> int:
    """Move under the eyes of a client on this host or another, and put what it felt into the report."""
    from bascule.cli import probe_beside  # noqa: PLC0415 - only where a probe is asked for
    from bascule.cli.probe_address import address_for  # noqa: PLC0415
    from bascule.cli.probe_elsewhere import begin_elsewhere  # noqa: PLC0415

    address = address_for(client, request["vm"], wishes, as_json=as_json, here=probe_from is None)
    if probe_from is not None:
        with begin_elsewhere(client, probe_from, wishes, address, hz) as elsewhere:
            report = _followed(client, request, screen_for(as_json=as_json), patience_s)
            probe_beside.tell(elsewhere, client, report)
        return _tell(report, html_file, as_json=as_json)
    with probe_beside.begin(wishes, address, hz) as beside:
        report = _followed(client, request, probe_beside.WatchedScreen(beside, as_json=as_json), patience_s)
        probe_beside.tell(beside, client, report)
    status = _tell(report, html_file, as_json=as_json)
    if not as_json:
        probe_beside.leave(beside.told, report)
    return status


def _followed(client: AgentClient, request: dict[str, Any], screen: Screen, patience_s: float) -> dict[str, Any]:
    with Follower(client, screen, ours=True, patience_s=patience_s) as follower:
        return follower.wait(_start(client, request)["id"])


def _tell(report: dict[str, Any], html_file: str | None, *, as_json: bool) -> int:
    """Show the report and return the exit status: a report that cannot be shown must not hide the move's end."""
    status = exit_status(report.get("outcome"))
    try:
        show_report(report, as_json=as_json)
        if html_file:
            write_html(report, html_file)
    except BasculeError as error:
        say_error(error, as_json=as_json)
        return max(status, Failed.exit_status)
    return status


def _plan(ctx: click.Context, client: AgentClient, request: dict[str, Any], *, as_json: bool) -> None:
    """Print all findings together, or the forecast."""
    attempted = f"migrate vm {request['vm']} to {request['destination']}"
    answer = client.check(url("plans"), request, attempted=f"check: {attempted}")
    if as_json:
        say_json(answer)
        ctx.exit(0 if answer["ok"] else Refused.exit_status)
    if not answer["ok"]:
        raise Refused.from_findings(attempted, [Finding(**finding) for finding in answer["findings"]])
    say(f"can {attempted}: nothing speaks against it")
    for finding in answer["findings"]:
        say(f"  - {Finding(**finding)}")
    if forecast := answer.get("forecast"):
        say(f"forecast: {seconds_text(forecast['total_s'])} in all, blackout {forecast['blackout_ms']:.0f} ms")
