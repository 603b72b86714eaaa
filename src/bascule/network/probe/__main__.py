"""The probe as a process of its own, so that no other work's interpreter lock or garbage delays it.

    python -m bascule.network.probe --icmp 10.77.0.50 --udp 10.77.0.50:7 --tcp 10.77.0.50:7 \\
        --http http://10.77.0.50/ --hz 1000 --output FILE [--namespace NAME] [--duration SECONDS]

On stdout it tells, one JSON object a line: `{"event": "connected", ...}` when it begins to ask, then
`{"event": "finished"}`; or `{"event": "refused" | "failed", "message", "remedy"}`. It ends on SIGTERM, SIGINT, the end
of its stdin, or after the duration: nothing more is asked, the last answers are waited for, the recording is whole.
Exit statuses: those of `errors`.

For programs, `session.ProbeSession` starts one and reads what it records.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from bascule.errors import BasculeError, Failed, Refused
from bascule.network.outage import ANSWER_TIMEOUT_S
from bascule.network.probe import loop
from bascule.network.probe.ending import Ending
from bascule.network.probe.kinds.arp import ArpRequests
from bascule.network.probe.kinds.bulk import BulkTcp
from bascule.network.probe.kinds.http import HttpGet
from bascule.network.probe.kinds.icmp import IcmpEcho
from bascule.network.probe.kinds.stream import Stream
from bascule.network.probe.kinds.tcp import TcpEcho
from bascule.network.probe.kinds.tcp_connect import ConnectEach
from bascule.network.probe.kinds.udp import UdpEcho
from bascule.network.probe.log import StreamLog
from bascule.network.probe.priority import take_priority
from bascule.network.probe.recorder import Recorder
from bascule.network.probe.samples import StreamInfo
from bascule.network.probe.target import Target, parse_target

CONNECT_TIMEOUT_S = 10.0
HIGHEST_HZ = 10_000
_CLONE_NEWNET = 0x40000000
_STREAMS: dict[str, Callable[[Target, StreamLog], Stream]] = {
    "icmp": IcmpEcho,
    "arp": ArpRequests,
    "udp": UdpEcho,
    "tcp": TcpEcho,
    "bulk": BulkTcp,
    "connect": ConnectEach,
    "http": HttpGet,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one session and return its exit status."""
    arguments = _parser().parse_args(argv)
    ending = Ending()
    try:
        _run(arguments, ending)
    except BasculeError as error:
        kind = "refused" if isinstance(error, Refused) else "failed"
        _tell(kind, message=error.message, remedy=error.remedy)
        return error.exit_status
    except Exception as error:  # Python's own exit status would be 1, "refused": a lie
        traceback.print_exc()
        _tell("failed", message=f"the probe broke off by a defect of its own: {error!r}", remedy="")
        return Failed.exit_status
    finally:
        ending.close()
    _tell("finished")
    return 0


def _run(arguments: argparse.Namespace, ending: Ending) -> None:
    targets: dict[str, str] = {kind: text for kind in _STREAMS if (text := getattr(arguments, kind)) is not None}
    if not targets:
        raise Refused(
            "cannot probe: no target given", "name one by --icmp, --arp, --udp, --tcp, --bulk, --connect or --http"
        )
    if "connect" in targets and len(targets) > 1:
        raise Refused("cannot probe by --connect and another kind in one process", "start a process for each")
    if arguments.namespace:
        _enter(arguments.namespace)
    resolved = {kind: parse_target(kind, text, ip_version=arguments.ip) for kind, text in targets.items()}
    infos = [StreamInfo(kind, text, arguments.hz) for kind, text in targets.items()]
    logs = [StreamLog(number, info) for number, info in enumerate(infos)]
    with contextlib.ExitStack() as opened:
        streams = []
        for log in logs:
            streams.append(_open(log, resolved[log.info.kind]))
            opened.callback(streams[-1].close)
        scheduling = take_priority()  # before the recorder's thread, which inherits it
        facts = {"scheduling": scheduling, "created_at_ns": time.monotonic_ns()}
        recorder = Recorder(arguments.output, logs, facts)
        opened.callback(recorder.close)
        silent = [one.log.info.kind for one in streams if not one.connect(ending, arguments.connect_timeout)]
        if ending.is_here:
            return
        _tell("connected", at_ns=time.monotonic_ns(), streams=list(targets), silent=silent, scheduling=scheduling)
        loop.run(
            streams,
            recorder,
            ending,
            duration_s=arguments.duration,
            answer_timeout_s=arguments.answer_timeout,
        )


def _open(log: StreamLog, target: Target) -> Stream:
    try:
        return _STREAMS[log.info.kind](target, log)
    except OSError as error:  # a kernel without IPv6, for instance
        raise Refused(
            f"cannot probe {target.text} by {log.info.kind.upper()}: {error.strerror}",
            "this machine has no such sockets: ask by another kind",
        ) from error


def _enter(namespace: str) -> None:
    """Go into a named network namespace, as `ip netns` makes them."""
    attempt = f"cannot probe from network namespace {namespace}"
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns is Python 3.12's
    try:
        descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Refused(f"{attempt}: {error.strerror}", "see which there are: ip netns list") from error
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise Refused(f"{attempt}: {os.strerror(ctypes.get_errno())}", "this needs root")
    finally:
        os.close(descriptor)


def _tell(event: str, **facts: object) -> None:
    try:
        print(json.dumps({"event": event, **facts}), flush=True)
    except BrokenPipeError:  # nobody listens any more; the end of stdin tells the loop
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for the interpreter's own flush at exit


def _frequency(text: str) -> float:
    hz = float(text)
    if not 0 < hz <= HIGHEST_HZ:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {HIGHEST_HZ} a second")
    return hz


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bascule.network.probe", description="Ask a guest many times a second, and record."
    )
    parser.add_argument("--icmp", metavar="ADDRESS", help="ICMP echo, as ping does")
    parser.add_argument("--arp", metavar="ADDRESS", help="ARP requests to an IPv4 neighbour")
    parser.add_argument("--udp", metavar="ADDRESS:PORT", help="a UDP echo service")
    parser.add_argument("--tcp", metavar="ADDRESS:PORT", help="a TCP echo service, over one connection")
    parser.add_argument("--bulk", metavar="ADDRESS:PORT", help="a TCP echo service, with as many bytes as it takes")
    parser.add_argument("--connect", metavar="ADDRESS:PORT", help="a new TCP connection each time")
    parser.add_argument("--http", metavar="URL", help="a page, http:// only")
    parser.add_argument("--ip", type=int, choices=(4, 6), help="which of a name's addresses (default: the first)")
    parser.add_argument("--hz", type=_frequency, default=1000.0, help="times a second, each (default 1000)")
    parser.add_argument("--output", metavar="FILE", type=Path, required=True, help="the recording")
    parser.add_argument("--namespace", metavar="NAME", help="network namespace to ask from")
    parser.add_argument("--duration", metavar="SECONDS", type=float, help="default: until told")
    parser.add_argument("--answer-timeout", metavar="SECONDS", type=float, default=ANSWER_TIMEOUT_S)
    parser.add_argument("--connect-timeout", metavar="SECONDS", type=float, default=CONNECT_TIMEOUT_S)
    return parser


if __name__ == "__main__":
    sys.exit(main())
