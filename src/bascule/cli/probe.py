"""`bascule probe`: what a client of a VM feels, from this machine.

The asking is done by a process of its own (`network.probe_session`); this one shows what that records.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, Protocol

import click

from bascule.cli.options import DURATION, json_option
from bascule.cli.output import say, say_json

if TYPE_CHECKING:
    from bascule.network.outage import Outage
    from bascule.network.probe_process import ProbeSession
    from bascule.network.probe_totals import Totals

ECHO_PORT = 7
LIVE_EVERY_S = 0.2
PLAIN_EVERY_S = 1.0
SILENT_WORTH_TELLING_MS = 300.0


@click.command()
@click.argument("address")
@click.option("--udp", type=click.IntRange(1, 65535), metavar="PORT", help="UDP echo (the default, port 7).")
@click.option("--tcp", type=click.IntRange(1, 65535), metavar="PORT", help="TCP echo over one connection.")
@click.option("--http", is_flag=True, help="HTTP GET of http://ADDRESS/ over one connection.")
@click.option(
    "--hz", type=click.FloatRange(0, 10_000, min_open=True), default=1000.0, show_default=True, help="Times a second."
)
@click.option("--duration", type=DURATION, help="How long, as in 10s or 5m.  [default: until Ctrl-C]")
@json_option
def probe(
    *, address: str, udp: int | None, tcp: int | None, http: bool, hz: float, duration: float | None, as_json: bool
) -> None:
    """Ask ADDRESS many times a second and tell what a client feels: loss, order, silences, round trips.

    UDP echo alone sees loss, duplicates and reordering. TCP echo verifies each byte of one connection that must
    never break. HTTP asks for a page, one request at a time. ADDRESS is a name, an IPv4 or an IPv6 address.

    Start it before a move and end it with Ctrl-C: a summary follows. As root it is scheduled before everything
    else on this machine; where it was late all the same, it says so.

    \b
    Examples:
      bascule probe 10.77.0.50
      bascule probe 10.77.0.50 --tcp 7 --duration 30s
      bascule probe web.example:8080 --http --hz 100
      bascule probe 10.77.0.50 --hz 10000 --duration 5s --json

    \b
    Exit status: 0 done, however much was lost; 1 cannot be asked (no such name, connection refused); 2 usage.
    """
    if sum((udp is not None, tcp is not None, http)) > 1:
        raise click.UsageError("give one of --udp, --tcp and --http")
    kind = "http" if http else "tcp" if tcp is not None else "udp"
    target = _target(kind, address, tcp if tcp is not None else udp if udp is not None else ECHO_PORT)
    with _termination_interrupts():
        result = _run(kind, target, hz, duration, quiet=as_json)
    if result is None:
        return
    if as_json:
        say_json(result.to_dict())
    else:
        _say_summary(result)


def _run(kind: str, target: str, hz: float, duration_s: float | None, *, quiet: bool) -> Outage | None:
    """Probe until the end and account for all of it; None when it was interrupted before it began."""
    import tempfile  # noqa: PLC0415 - not needed for --help
    from pathlib import Path  # noqa: PLC0415

    from bascule.network.outage import outage_between  # noqa: PLC0415
    from bascule.network.probe_process import ProbeSession  # noqa: PLC0415

    with (
        tempfile.TemporaryDirectory(prefix="bascule-probe-") as directory,
        ProbeSession.start(
            Path(directory) / "recording",
            udp=target if kind == "udp" else None,
            tcp=target if kind == "tcp" else None,
            http=target if kind == "http" else None,
            hz=hz,
            duration_s=duration_s,
            connect_timeout_s=3.0,
        ) as session,
    ):
        try:
            session.wait_connected()
        except KeyboardInterrupt:
            return None
        screen = _screen(quiet=quiet)
        try:
            if session.silent and not quiet:
                screen.note(f"{target} does not answer yet")
            _watch(session, kind, screen)
        except KeyboardInterrupt:
            pass  # the usual end
        finally:
            screen.close()
        session.stop()
        samples = session.samples(kind)
        end_ns = samples.stopped_at_ns or samples.recorded_until_ns
        start_ns = samples.sent_at_ns[0] if samples.sent_at_ns else end_ns
        return outage_between(samples, start_ns, end_ns)


def _watch(session: ProbeSession, kind: str, screen: Screen) -> None:
    from bascule.network.probe_totals import Totals  # noqa: PLC0415 - not needed for --help

    totals = Totals()
    while not session.wait_ended(screen.every_s):
        totals.add(session.samples(kind))
        if totals.until_ns or totals.silent_ms > SILENT_WORTH_TELLING_MS:
            screen.show(_line(totals))


def _line(totals: Totals) -> str:
    from bascule.report.words import milliseconds  # noqa: PLC0415 - not needed for --help

    now = "" if totals.rtt_median_ms is None else f", round trip now {milliseconds(totals.rtt_median_ms)}"
    silent = f", SILENT for {milliseconds(totals.silent_ms)}" if totals.silent_ms > SILENT_WORTH_TELLING_MS else ""
    return (
        f"{totals.duration_s:6.1f} s  sent {totals.sent:,}, lost {totals.lost:,}, duplicated {totals.duplicated:,},"
        f" reordered {totals.reordered:,}, longest silence {milliseconds(totals.longest_silence_ms)}{now}{silent}"
    )


class Screen(Protocol):
    """Where the live line goes, and how often."""

    every_s: float

    def show(self, line: str) -> None:
        """Show the line instead of, or below, the last one."""

    def note(self, text: str) -> None:
        """Show a sentence that stays."""

    def close(self) -> None:
        """Take away what is not meant to stay."""


class PlainScreen:
    """A line a second; none at all for a program that reads JSON."""

    every_s = PLAIN_EVERY_S

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def show(self, line: str) -> None:
        """Write the line."""
        if not self._quiet:
            say(line)

    def note(self, text: str) -> None:
        """Write the sentence."""
        self.show(text)

    def close(self) -> None:
        """Do nothing."""


class LiveScreen:
    """One line, redrawn in place."""

    every_s = LIVE_EVERY_S

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - slow to import, needed on terminals only
        from rich.live import Live  # noqa: PLC0415

        self._console = Console(highlight=False)
        self._live = Live(console=self._console, transient=True, auto_refresh=False)
        self._live.start()

    def show(self, line: str) -> None:
        """Redraw the line."""
        from rich.text import Text  # noqa: PLC0415 - loaded by now

        self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    def note(self, text: str) -> None:
        """Print the sentence above the line."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Take the line away."""
        self._live.stop()


def _screen(*, quiet: bool) -> Screen:
    return LiveScreen() if sys.stdout.isatty() and not quiet else PlainScreen(quiet=quiet)


def _say_summary(result: Outage) -> None:
    from bascule.report.words import frequency, milliseconds  # noqa: PLC0415 - not needed for --help

    share = f" ({100 * result.lost / result.sent:.3g} %)" if result.lost else ""
    say(f"{result.probe} to {result.target} at {frequency(result.probe_hz)}")
    say(
        f"sent {result.sent:,}, lost {result.lost:,}{share}, duplicated {result.duplicated:,},"
        f" reordered {result.reordered:,}"
    )
    if result.longest_silence_ms is not None:
        say(
            f"longest silence {milliseconds(result.longest_silence_ms)}, {result.silence_start_s:.3f} s after the start"
        )
    if result.rtt_median_ms is not None:
        say(
            f"round trip: median {milliseconds(result.rtt_median_ms)}, 99 % within {milliseconds(result.rtt_p99_ms)},"
            f" longest {milliseconds(result.rtt_max_ms)}"
        )
    if result.note:
        say(result.note)


def _target(kind: str, address: str, port: int) -> str:
    if kind == "http":
        return address if address.startswith("http://") else f"http://{address}/"
    if address.count(":") == 1:
        raise click.UsageError(
            f"{address}: give the port by --udp or --tcp, as in: --{kind} {address.partition(':')[2]}"
        )
    bracketed = f"[{address}]" if ":" in address and not address.startswith("[") else address
    return f"{bracketed}:{port}"


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Make SIGTERM what Ctrl-C is: an end with a summary, and nothing left behind."""

    def interrupt(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
