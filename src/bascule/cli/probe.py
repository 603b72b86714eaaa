"""`bascule probe`: what a client of a VM feels, from this machine.

The asking is done by a process of its own (`network.probe`); this one shows what that records.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import click

from bascule.cli.options import DURATION, json_option
from bascule.cli.output import say, say_json

if TYPE_CHECKING:
    from bascule.cli.probe_screen import Screen
    from bascule.network.outage import Outage
    from bascule.network.probe.samples import Samples
    from bascule.network.probe.session import ProbeSession

CONNECT_TIMEOUT_S = 3.0
PORT = click.IntRange(1, 65535)


@click.command()
@click.argument("address")
@click.option("--icmp", is_flag=True, help="ICMP echo, as ping does (the default).")
@click.option("--arp", is_flag=True, help="ARP requests to a neighbour on the same network (IPv4; needs root).")
@click.option("--udp", type=PORT, metavar="PORT", help="Datagrams to an echo service.")
@click.option("--tcp", type=PORT, metavar="PORT", help="Bytes over one connection to an echo service.")
@click.option("--bulk", type=PORT, metavar="PORT", help="As many bytes as an echo service takes, over one connection.")
@click.option("--connect", type=PORT, metavar="PORT", help="A new TCP connection each time: SYN to SYN/ACK.")
@click.option("--http", is_flag=True, help="HTTP GET of http://ADDRESS/ over one connection.")
@click.option("-4", "ip_version", flag_value=4, type=int, help="Take a name's IPv4 address.")
@click.option("-6", "ip_version", flag_value=6, type=int, help="Take a name's IPv6 address.")
@click.option(
    "--hz",
    type=click.FloatRange(0, 10_000, min_open=True),
    help="Times a second, up to 10,000.  [default: 1000; with --connect 100]",
)
@click.option("--duration", type=DURATION, help="How long, as in 10s or 5m.  [default: until Ctrl-C]")
@json_option
def probe(
    *,
    address: str,
    icmp: bool,
    arp: bool,
    udp: int | None,
    tcp: int | None,
    bulk: int | None,
    connect: int | None,
    http: bool,
    ip_version: int | None,
    hz: float | None,
    duration: float | None,
    as_json: bool,
) -> None:
    """Ask ADDRESS many times a second and tell what a client feels: silences, loss, order, round trips.

    ADDRESS is a name, an IPv4 or an IPv6 address. ICMP and UDP see loss, duplicates and reordering. A refused
    port is an answer for --connect: the machine sent an RST. --tcp verifies each byte of one connection that
    must never break; so does --bulk, which keeps it full and tells how many bytes came back when. --http and
    --arp ask one question at a time.

    Start it before a move and end it with Ctrl-C: the figures so far follow. As root it is scheduled before
    everything else on this machine; where it was late all the same, it says when, and subtracts it from no one.

    \b
    Examples:
      bascule probe 10.77.0.50
      bascule probe fd77:ba5c:1e::50 --duration 30s
      bascule probe 10.77.0.50 --connect 22
      bascule probe 10.77.0.50 --bulk 7 --duration 10s
      bascule probe web.example:8080 --http --hz 100
      bascule probe 10.77.0.50 --udp 7 --hz 10000 --duration 5s --json

    \b
    Exit status: 0 done, however much was lost; 1 cannot be asked (no such name, no way, not permitted, nothing
    listens); 2 usage; 3 the probe broke.
    """
    given: dict[str, int] = {"icmp": 0} if icmp else {}
    given |= {"arp": 0} if arp else {}
    given |= {
        kind: port
        for kind, port in (("udp", udp), ("tcp", tcp), ("bulk", bulk), ("connect", connect))
        if port is not None
    }
    given |= {"http": 0} if http else {}
    if len(given) > 1:
        raise click.UsageError(f"give one of {', '.join(f'--{kind}' for kind in given)}")
    ((kind, port),) = (given or {"icmp": 0}).items()
    target = _target(kind, address, port)
    if kind == "arp" and ip_version == 6:
        raise click.UsageError("--arp is for IPv4: leave -6 out, or ask by --icmp")
    from bascule.cli.probe_wish import usual_hz  # noqa: PLC0415 - not needed for --help

    with _termination_interrupts():
        _run(kind, target, hz or usual_hz(kind), duration, ip_version, as_json=as_json)


def _run(kind: str, target: str, hz: float, duration_s: float | None, ip_version: int | None, *, as_json: bool) -> None:
    """Probe until the end and account for all of it."""
    import tempfile  # noqa: PLC0415 - not needed for --help
    from pathlib import Path  # noqa: PLC0415

    from bascule.cli.probe_screen import leave_picture, screen_for  # noqa: PLC0415
    from bascule.network.outage import outage_between  # noqa: PLC0415
    from bascule.network.probe.session import ProbeSession  # noqa: PLC0415
    from bascule.report.words import seconds  # noqa: PLC0415

    targets: dict[str, Any] = {kind: target}
    with (
        tempfile.TemporaryDirectory(prefix="bascule-probe-") as directory,
        ProbeSession.start(
            Path(directory) / "recording",
            hz=hz,
            duration_s=duration_s,
            ip_version=ip_version,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            **targets,
        ) as session,
    ):
        session.wait_connected()
        screen = screen_for(quiet=as_json)
        try:
            if session.silent:
                screen.note(f"{target} does not answer yet: until it does, every probe counts as lost")
            _watch(session, kind, screen)
        except KeyboardInterrupt:
            pass  # the usual end
        finally:
            screen.close()
        session.stop()
        samples = session.samples(kind)
        end_ns = samples.stopped_at_ns or samples.recorded_until_ns
        start_ns = samples.sent_at_ns[0] if samples.sent_at_ns else end_ns
        outage = outage_between(samples, start_ns, end_ns)
        started_at = datetime.fromtimestamp((start_ns + time.time_ns() - time.monotonic_ns()) / 1e9).astimezone()
    if as_json:
        say_json(outage.to_dict() | {"started_at": started_at.isoformat(), "scheduling": session.scheduling})
        return
    gaps = [((begin - start_ns) / 1e9, (end - start_ns) / 1e9) for begin, end in samples.own_gaps(start_ns, end_ns)]
    leave_picture(outage, gaps, ends=("0 s", seconds(outage.duration_s)))
    _say_summary(outage, started_at)


def _watch(session: ProbeSession, kind: str, screen: Screen) -> None:
    from bascule.cli.probe_screen import Watch  # noqa: PLC0415 - not needed for --help

    watch = Watch(session.samples(kind).stream)
    told = 0
    while not session.wait_ended(screen.every_s):
        samples = session.samples(kind)
        for sentence in _news(samples, told):
            screen.note(sentence)
        told = len(samples.events)
        watch.update(samples)
        if watch.has_begun:
            screen.show(watch)


def _news(samples: Samples, told: int) -> Iterator[str]:
    """What a user wants to know at once of the events after the first `told` ones, each sort once."""
    before = {event.what for event in samples.events[:told]}
    for event in samples.events[told:]:
        if event.what == "reset" and event.what not in before:
            yield "the port is refused (RST): nothing listens there, but the machine answers, and that counts"
        elif event.what == "other-mac" and event.what not in before:
            yield f"the address is also claimed by another MAC, {event.facts['mac']}"
        elif event.what == "disconnected":
            yield f"the connection broke: {event.facts['reason']}"
        elif event.what == "connected" and "disconnected" in before:
            yield "connected again"
        before.add(event.what)


def _say_summary(result: Outage, started_at: datetime) -> None:
    from bascule.report.words import frequency, milliseconds, seconds, short_time  # noqa: PLC0415 - not for --help

    share = f" ({100 * result.lost / result.sent:.3g} %)" if result.lost else ""
    if result.throughput is not None:
        _say_bulk(result, started_at)
        return
    say(f"{result.probe} to {result.target} at {frequency(result.probe_hz)}")
    say(
        f"sent {result.sent:,}, lost {result.lost:,}{share}, duplicated {result.duplicated:,},"
        f" reordered {result.reordered:,}, in {seconds(result.duration_s)}"
    )
    if result.longest_silence_ms is not None and result.silence_start_s is not None:
        at = started_at + timedelta(seconds=result.silence_start_s)
        say(
            f"longest silence {milliseconds(result.longest_silence_ms)}, {result.silence_start_s:.3f} s after the start"
            f" (at {at:%H:%M:%S}.{at.microsecond // 1000:03})"
        )
    trips = (
        ("median", result.rtt_median_ms),
        ("90 % within", result.rtt_p90_ms),
        ("99 %", result.rtt_p99_ms),
        ("99.9 %", result.rtt_p999_ms),
        ("longest", result.rtt_max_ms),
    )
    if result.rtt_median_ms is not None:
        say(f"round trip: {', '.join(f'{name} {short_time(value)}' for name, value in trips)}")
    if result.note:
        say(result.note)


def _say_bulk(result: Outage, started_at: datetime) -> None:
    from bascule.report.throughput import amount, line_picture, read_throughput  # noqa: PLC0415 - not for --help
    from bascule.report.words import milliseconds  # noqa: PLC0415

    say(f"{result.probe} to {result.target}")
    seen = read_throughput(result.to_dict()["throughput"])
    if seen is not None:
        say(amount(seen) + (f"; {result.lost:,} of {result.sent:,} pieces lost" if result.lost else ""))
        for line in line_picture(seen, None, 80):
            say(line)
    if result.longest_silence_ms is not None and result.silence_start_s is not None:
        at = started_at + timedelta(seconds=result.silence_start_s)
        say(
            f"longest stall {milliseconds(result.longest_silence_ms)}, {result.silence_start_s:.3f} s after the start"
            f" (at {at:%H:%M:%S}.{at.microsecond // 1000:03})"
        )
    if result.note:
        say(result.note)


def _target(kind: str, address: str, port: int) -> str:
    if kind == "http" and address.startswith("http://"):
        return address
    is_six = address.count(":") > 1
    bracketed = f"[{address}]" if is_six and not address.startswith("[") else address
    if kind == "http":
        return f"http://{bracketed}/"
    if not is_six and ":" in address:
        host, _, given = address.partition(":")
        example = f"{host} --{kind if port else 'tcp'} {given}"
        raise click.UsageError(f"{address}: give the port by --udp, --tcp, --bulk or --connect, as in: {example}")
    return f"{bracketed}:{port}" if port else address


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
