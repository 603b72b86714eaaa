"""The demo: a lab of three hosts, a guest that works, a client that talks to it, and moves under the client's eyes.

    python -m bascule.lab.demo [--json FILE] [--html FILE] [--hz N]

Everything in it is real: agents, QEMU, a Linux guest, taps, bridges and packets. Whatever ends it (its end, an error,
Ctrl-C), nothing of it is left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from bascule.errors import BasculeError, Failed
from bascule.lab.guest_vm import GuestVm
from bascule.lab.laboratory import Lab
from bascule.lab.names import namespace
from bascule.lab.newer_qemu import lab_qemu
from bascule.lab.places import CACHE
from bascule.migration.story import run_s, with_outage
from bascule.network.outage import Outage
from bascule.network.probe.session import ProbeSession
from bascule.report.html import render_html
from bascule.report.text import render_text

ROUTE = ("h1", "h2", "h3", "h1")
FEW_CORES = 4  # with fewer, a software-emulated guest cannot answer three services at full rate and be copied as well
MARGIN_S = 0.5  # of the client's time before and after a move that its report shows
CONNECTED = ("tcp", "http")
FEW_CORES_HZ = 200.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the demo was asked for."""

    json_file: Path | None
    html_file: Path
    hz: float
    memory_mib: int
    dirty_mib: int
    rate_mb_s: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run(options)
    except BasculeError as error:
        _say(f"bascule: {error}", to=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        _say("\nended by you; nothing is left behind", to=sys.stderr)
        return 130
    return 0


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Watch a Linux guest move between three hosts on this machine while a client talks to it.",
        epilog="Example: scripts/demo --json reports.json --html demo.html",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the list of all reports")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", default=Path("bascule-demo.html"), help="write the page (%(default)s)"
    )
    parser.add_argument(
        "--hz",
        type=float,
        default=1000,
        help="how often a second the client asks (%(default)g); TCP and HTTP fewer times on fewer than 4 cores",
    )
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="the guest's memory (%(default)s)")
    parser.add_argument("--dirty", type=int, default=64, metavar="MIB", help="memory that it rewrites (%(default)s)")
    parser.add_argument("--rate", type=int, default=50, metavar="MB/S", help="how fast it rewrites it (%(default)s)")
    given = parser.parse_args(arguments)
    for file in (given.json, given.html):
        if file is not None and not file.absolute().parent.is_dir():
            parser.error(f"cannot write {file}: there is no folder {file.absolute().parent}")
    return Options(given.json, given.html, given.hz, given.memory, given.dirty, given.rate)


def _run(options: Options) -> None:
    began = time.monotonic()
    guest = GuestVm(
        memory_mib=options.memory_mib, dirty_mib=options.dirty_mib, rate_mb_s=options.rate_mb_s, progress=_say
    )
    image = guest.build_image(CACHE)
    lab_qemu(CACHE, _say)
    reports: list[dict[str, Any]] = []
    with Lab(f"demo{os.getpid()}") as lab:
        _say("building a lab of three hosts, a switch and a client")
        lab.up(hosts=3, agent_settings={"proof_kernel": str(image.kernel)})
        _say(
            f"starting the guest on {ROUTE[0]}: {options.memory_mib} MiB, of which it rewrites {options.dirty_mib} MiB"
        )
        guest.start(lab, ROUTE[0])
        with _client(lab, guest, options) as probes:
            first_ns = time.monotonic_ns()
            for source, destination in pairwise(ROUTE):
                reports.append(_move(lab, guest, probes, source, destination))
            reports.append(_move(lab, guest, probes, ROUTE[-1], ROUTE[1], "--quick"))
            _say("")
            for stream in CONNECTED:
                connection = probes[stream].connection(stream, first_ns, time.monotonic_ns())
                if connection is not None:
                    _say(connection.sentence())
        status = guest.status(lab)
        _say(
            f"The guest has checked {status['blocks_checked']} blocks of its memory and found "
            f"{status['corrupt_blocks']} corrupt."
        )
    _write(options, reports)
    _say(f"The lab is removed. All of it took {time.monotonic() - began:.0f} s.")
    if status["corrupt_blocks"]:
        raise Failed("the guest's memory was corrupted: this is a fault in Bascule or QEMU", "please report it")


@contextlib.contextmanager
def _client(lab: Lab, guest: GuestVm, options: Options) -> Iterator[dict[str, ProbeSession]]:
    """Let a client talk to the guest; yields who watches which stream."""
    cores = os.cpu_count() or 1
    connected_hz = options.hz if cores >= FEW_CORES else min(options.hz, FEW_CORES_HZ)
    client, address = namespace(lab.name, "client"), guest.address
    tcp, http = f"{address}:7", f"http://{address}/"
    udp_file, connected_file = (lab.places.directory / f"{name}.probe" for name in ("udp", "connected"))
    with (
        ProbeSession.start(udp_file, namespace=client, udp=f"{address}:7", hz=options.hz) as udp,
        ProbeSession.start(connected_file, namespace=client, tcp=tcp, http=http, hz=connected_hz) as connected,
    ):
        udp.wait_connected()
        connected.wait_connected()
        _say(f"a client talks to it: UDP {options.hz:g} times a second, TCP and HTTP {connected_hz:g} times")
        if connected_hz < options.hz:
            _say(f"(all three at {options.hz:g} are more than an emulated guest can answer on {cores} cores in a copy)")
        yield {"udp": udp, "tcp": connected, "http": connected}


def _move(
    lab: Lab, guest: GuestVm, probes: Mapping[str, ProbeSession], source: str, destination: str, *how: str
) -> dict[str, Any]:
    """Move the guest by the command that a user would type, and put what the client felt into the report."""
    argv = ["bascule", "migrate", guest.name, destination, *how]
    _say(f"\n{source}# {' '.join(argv)}")
    begin_ns = time.monotonic_ns()
    ended = lab.popen(source, argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).wait()
    newest = lab.request(source, "GET", "/v1/moves")[0]
    report: dict[str, Any] = lab.request(source, "GET", f"/v1/moves/{newest['id']}/report")
    if ended != 0:
        raise Failed(f"the guest could not be moved from {source} to {destination}: {report['reason']}")
    origin_ns = _origin_ns(report, begin_ns)
    end_ns = time.monotonic_ns() + int(MARGIN_S * 1e9)
    outages = {
        stream: probe.outage(stream, begin_ns - int(MARGIN_S * 1e9), end_ns, origin_ns=origin_ns)
        for stream, probe in probes.items()
    }
    felt = outages["udp"].to_dict()
    if (ran_s := run_s(report)) is not None:
        felt |= probes["udp"].answers_around("udp", origin_ns + round(ran_s * 1e9), origin_ns)
    report = with_outage(report, felt)
    lab.request(source, "PUT", f"/v1/moves/{newest['id']}/outage", report["outage"])
    _say(render_text(report))
    for stream in CONNECTED:
        _say(_felt(stream, outages[stream]))
    return report


def _origin_ns(report: dict[str, Any], begin_ns: int) -> int:
    """The move's start on CLOCK_MONOTONIC, which all of this machine's namespaces share, from its wall-clock time."""
    ahead_ns = time.time_ns() - time.monotonic_ns()
    started_ns = int(datetime.fromisoformat(report["started_at"]).timestamp() * 1e9) - ahead_ns
    return max(started_ns, begin_ns)


def _felt(stream: str, outage: Outage) -> str:
    silence = f"{outage.longest_silence_ms:.1f} ms" if outage.longest_silence_ms is not None else "not known"
    return f"{stream.upper():<9} {outage.lost} of {outage.sent} unanswered, longest silence {silence}"


def _write(options: Options, reports: list[dict[str, Any]]) -> None:
    if options.json_file is not None:
        options.json_file.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
        _say(f"All reports as JSON: {options.json_file}")
    options.html_file.write_text(render_html(reports, "Four moves under a client's eyes"), encoding="utf-8")
    _say(f"All reports with pictures: {options.html_file}")


def _say(text: str, to: Any = None) -> None:
    print(text, file=to or sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
