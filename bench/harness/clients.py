"""The clients beside the moves: an outside probe that all rows share, and the load of a workload.

They live in the lab's client namespace. A probe asks `hz` times a second; a second one keeps a TCP connection
with the echo service, as a user's would be. Loads are programs of their own, so that nothing here slows a manager down.
"""

from __future__ import annotations

import json
import subprocess
import sys
from array import array
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from bascule.errors import Failed
from bascule.lab.guest_vm import GuestVm
from bascule.lab.laboratory import Lab
from bascule.lab.names import namespace
from bascule.lab.patience import patience
from bascule.network.outage import ANSWER_TIMEOUT_S, Outage, outage_between
from bascule.network.probe.session import ProbeSession
from harness.programs import NATIVE_ECHO_PORT, REDIS_PORT
from harness.workloads import Workload

ECHO_PORT = 7
TCP_HZ = 100.0  # or as the probe, if that asks less often
CONNECT_S = 10.0 * patience()
# A slow machine's guest is late, which is not lost: at 200 Hz an emulated host's had 14 MB of questions in its socket.
LAST_ANSWERS_S = ANSWER_TIMEOUT_S * patience() ** 2
BEFORE_NS = 300_000_000  # of a window's margins
AFTER_NS = 1_500_000_000
LOAD_START_S = 60.0
LOAD_END_S = 60.0
COUNTERS = {
    "TCPTimeouts": "retransmission time-outs",
    "TCPLossProbes": "tail loss probes",
    "TCPFastRetrans": "fast retransmissions",
    "TCPDSACKRecv": "of what was sent again known to have been there already",
}
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Felt:
    """What the clients felt in one window; `stall_ms` is the load's longest time without an answer."""

    echo: Outage
    tcp: Outage
    stall_ms: float | None
    bulk: Outage | None = None

    def to_dict(self) -> dict[str, Any]:
        """The figures, without samples."""
        kept = ("sent", "lost", "duplicated", "reordered", "longest_silence_ms", "own_gap_longest_ms", "note")
        echo, tcp = self.echo.to_dict(), self.tcp.to_dict()
        return {
            **{name: echo[name] for name in kept},
            "tcp_lost": tcp["lost"],
            "tcp_longest_silence_ms": tcp["longest_silence_ms"],
            "stall_ms": self.stall_ms,
            **(self._bulk(self.bulk.to_dict()) if self.bulk is not None else {}),
        }

    @staticmethod
    def _bulk(seen: dict[str, Any]) -> dict[str, Any]:
        """Of the bulk stream, whose throughput counts from the move's begin as its stall does."""
        kept = {"stall_start_s": seen["silence_start_s"], "stall_own_gap_longest_ms": seen["own_gap_longest_ms"]}
        return kept | {"bulk_note": seen["note"], "throughput": seen["throughput"]}


class Clients:
    """All clients of one guest. Use `with`; `finish` first, or there are no sums."""

    def __init__(self, lab: Lab, guest: GuestVm, workload: Workload) -> None:
        self._lab, self._workload = lab, workload
        client = namespace(lab.name, "client")
        folder = lab.places.directory
        self._record = folder / "load.record"
        self._load: subprocess.Popen[bytes] | None = None
        echo = f"{guest.address}:{ECHO_PORT}"
        self._address = guest.address
        udp = f"{guest.address}:{NATIVE_ECHO_PORT}" if workload.native_echo else echo
        target = {"udp": udp} if workload.probe == "udp" else {"icmp": guest.address}
        start = partial(
            ProbeSession.start,
            namespace=client,
            answer_timeout_s=LAST_ANSWERS_S,
            connect_timeout_s=CONNECT_S,
        )
        self._probe = start(folder / "echo.probe", hz=workload.hz, **target)
        self._tcp = start(folder / "tcp.probe", tcp=echo, hz=min(TCP_HZ, workload.hz))
        self._bulk = start(folder / "bulk.probe", bulk=echo) if workload.load == "bulk" else None
        self._sessions = [session for session in (self._probe, self._tcp, self._bulk) if session is not None]
        self._before: dict[str, int] = {}
        self.tcp_counters: dict[str, int] = {}
        self.load_said: dict[str, Any] = {}
        self._steps: array[int] = array("q")

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for probe in self._sessions:
            probe.close()
        if self._load is not None and self._load.poll() is None:
            self._load.kill()
            self._load.wait()
        for file in (*(session.output for session in self._sessions), self._record):
            file.unlink(missing_ok=True)

    def begin(self) -> None:
        """Wait until all clients have had an answer."""
        for probe in self._sessions:
            probe.wait_connected()
            if probe.silent:
                raise Failed("the guest does not answer the probe")
        if self._workload.load == "redis":
            program = HERE / f"{self._workload.load}_load.py"
            self._load = self._lab.popen(
                "client",
                [sys.executable, str(program), self._address, str(REDIS_PORT), str(self._record)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            assert self._load.stdout is not None
            if self._load.stdout.readline().strip() != b"ready":
                raise Failed(f"the {self._workload.load} load did not begin")
        self._before = self._tcp_counters()

    def finish(self) -> None:
        """End the load, which then checks its data, and the probes, which take in the last answers."""
        if self._load is not None:
            said, _ = self._load.communicate(timeout=LOAD_END_S)
            self.load_said = json.loads(said)
            with self._record.open("rb") as file:
                self._steps.frombytes(file.read())
        self.tcp_counters = {name: count - self._before[name] for name, count in self._tcp_counters().items()}
        for probe in self._sessions:
            probe.stop()
        if self._bulk is not None:
            self.load_said = self._bulk_said(self._bulk)

    def felt(self, begin_ns: int, end_ns: int) -> Felt:
        """Return what was felt in the window of a move. After `finish`."""
        window = begin_ns - BEFORE_NS, end_ns + AFTER_NS
        bulk = self.bulk(begin_ns, end_ns, begin_ns)
        account = partial(outage_between, answer_timeout_s=LAST_ANSWERS_S, max_samples=3)
        return Felt(
            account(self._probe.samples(self._workload.probe), *window),
            account(self._tcp.samples("tcp"), *window),
            bulk.longest_silence_ms if bulk is not None else self._stall_ms(*window),
            bulk,
        )

    def echo(self, begin_ns: int, end_ns: int, origin_ns: int) -> Outage:
        """What the probe felt in the window of a move, its samples included."""
        window = begin_ns - BEFORE_NS, end_ns + AFTER_NS
        return outage_between(self._probe.samples(self._workload.probe), *window, origin_ns=origin_ns)

    def bulk(self, begin_ns: int, end_ns: int, origin_ns: int) -> Outage | None:
        """What the bulk stream felt in the window of a move, with times from `origin_ns`; None: there is none."""
        if self._bulk is None:
            return None
        window = begin_ns - BEFORE_NS, end_ns + AFTER_NS
        return outage_between(self._bulk.samples("bulk"), *window, origin_ns=origin_ns)

    def whole(self) -> Outage:
        """Account for everything that the probe sent."""
        samples = self._probe.samples(self._workload.probe)
        window = samples.sent_at_ns[0], samples.stopped_at_ns or samples.recorded_until_ns
        return outage_between(samples, *window, answer_timeout_s=LAST_ANSWERS_S)

    def connection(self) -> Any:
        """What became of the TCP probe's connection."""
        samples = self._tcp.samples("tcp")
        return self._tcp.connection("tcp", samples.sent_at_ns[0], samples.stopped_at_ns or samples.recorded_until_ns)

    def rates(self, begin_ns: int, end_ns: int, step_ns: int) -> list[int]:
        """Return how many commands Redis answered in each `step_ns` of a window."""
        found = [0] * max(1, -(-(end_ns - begin_ns) // step_ns))
        for at, amount in zip(self._steps[::2], self._steps[1::2], strict=True):
            if begin_ns <= at < end_ns:
                found[(at - begin_ns) // step_ns] += amount
        return found

    @staticmethod
    def _bulk_said(session: ProbeSession) -> dict[str, Any]:
        """All that is to be said of the whole stream."""
        samples = session.samples("bulk")
        whole = samples.sent_at_ns[0], samples.recorded_until_ns
        connection = session.connection("bulk", *whole)
        assert connection is not None
        return {
            "bytes": connection.verified_bytes,
            "wrong": connection.corrupt,
            "missing": outage_between(samples, *whole, max_samples=3).lost,
            "retransmitted_segments": connection.retransmitted,
            "error": "" if connection.is_unbroken else connection.sentence(),
        }

    def _stall_ms(self, begin_ns: int, end_ns: int) -> float | None:
        at = self._steps[::2]
        if not at:
            return None
        inside = [moment for moment in at if begin_ns <= moment < end_ns]
        edges = [begin_ns, *inside, end_ns]
        return max(after - before for before, after in pairwise(edges)) / 1e6

    def _tcp_counters(self) -> dict[str, int]:
        """Return what the client's kernel has counted until now of what its TCP connections sent again, and why."""
        lines = self._lab.run("client", ["cat", "/proc/net/netstat"]).stdout.splitlines()
        rows = [line.split() for line in lines if line.startswith("TcpExt:")]
        counted = dict(zip(rows[0], rows[1], strict=True))
        return {name: int(counted[name]) for name in COUNTERS}
