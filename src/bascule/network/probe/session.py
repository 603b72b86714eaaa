"""`ProbeSession`: starts a probe beside a move, and says what the client saw in any window of time.

    with ProbeSession.start(path, namespace="bsc-demo-client", udp="10.77.0.50:7", tcp="10.77.0.50:7") as probe:
        probe.wait_connected()
        begin = time.monotonic_ns()     # the probe's clock too: CLOCK_MONOTONIC is the machine's
        ...                             # the move
        record = probe.outage("udp", begin, time.monotonic_ns()).to_dict()

All methods block; from asyncio call them by `asyncio.to_thread`.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from bascule.errors import Failed, Refused
from bascule.network.outage import ANSWER_TIMEOUT_S, MAX_SAMPLES, Outage, answers_around, outage_between
from bascule.network.probe.connection import Connection, connection_between
from bascule.network.probe.format import RecordingReader
from bascule.network.probe.samples import Samples

_START_S = 10.0  # a busy machine may take that long to start a program
_EXIT_S = 5.0
_LOOK_EVERY_S = 0.02
_NS_PER_S = 1_000_000_000


class ProbeSession:
    """A running probe of our own. Use it with `with`: no probe outlives it, nor the process that started it."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        errors: IO[bytes],
        output: Path,
        *,
        answer_timeout_s: float,
        connect_patience_s: float,
    ) -> None:
        self._process = process
        self._errors = errors
        self._answer_timeout_s = answer_timeout_s
        self._connect_patience_s = connect_patience_s
        self._reader = RecordingReader(output)
        self._unread = b""
        self.output = output
        self.silent: tuple[str, ...] = ()

    @classmethod
    def start(
        cls,
        output: Path,
        *,
        icmp: str | None = None,
        arp: str | None = None,
        udp: str | None = None,
        tcp: str | None = None,
        bulk: str | None = None,
        connect: str | None = None,
        http: str | None = None,
        ip_version: int | None = None,
        hz: float = 1000.0,
        namespace: str | None = None,
        duration_s: float | None = None,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        connect_timeout_s: float = 10.0,
    ) -> Self:
        """Start a probe that records to `output` (see `probe.__main__`); `wait_connected` comes next.

        `connect` goes with no other kind. `ip_version` (4 or 6): which of a name's addresses.
        It imports nothing from the folder where the user happens to be, and runs in a session of its own: Ctrl-C
        reaches this process only, which then ends it.
        """
        argv = [sys.executable, "-P", "-m", "bascule.network.probe", "--output", str(output), "--hz", f"{hz:g}"]
        targets = (icmp, arp, udp, tcp, bulk, connect, http)
        for option, value in (
            *zip(("--icmp", "--arp", "--udp", "--tcp", "--bulk", "--connect", "--http"), targets, strict=True),
            ("--ip", ip_version),
            ("--namespace", namespace),
            ("--duration", duration_s),
            ("--answer-timeout", answer_timeout_s),
            ("--connect-timeout", connect_timeout_s),
        ):
            if value is not None:
                argv.append(f"{option}={value}")
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the session
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0, start_new_session=True
        )
        return cls(
            process,
            errors,
            output,
            answer_timeout_s=answer_timeout_s,
            connect_patience_s=connect_timeout_s * sum(one is not None for one in targets) + _START_S,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """True while the probe's process is there."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the probe."""
        return self._process.pid

    @property
    def scheduling(self) -> str:
        """What priority the probe's process got: "SCHED_FIFO", "nice -10" or "as any process"."""
        return str(self._reader.head.get("scheduling", ""))

    def wait_connected(self) -> None:
        """Wait until it asks. `silent` is then ("udp",) if that target did not answer within the connect time-out.

        Raises:
            Refused: an address that cannot be resolved, a connection refused, no such namespace.
            Failed: the probe broke, or took longer than its connect time-outs.
        """
        told = self._next_event(self._connect_patience_s)
        if told["event"] == "connected":
            self.silent = tuple(told["silent"])
        elif told["event"] == "refused":
            raise Refused(told["message"], told["remedy"])
        else:
            raise Failed(told.get("message", "the probe ended before it began"), told.get("remedy", ""))

    def samples(self, kind: str) -> Samples:
        """What was recorded so far of the stream of that kind ("udp"). It grows; do not change it."""
        self._reader.update()
        for samples in self._reader.streams:
            if samples.stream.kind == kind:
                return samples
        raise Refused(f"the probe has no {kind} stream", "name it when the probe is started")

    def outage(
        self,
        kind: str,
        start_ns: int,
        end_ns: int,
        *,
        origin_ns: int | None = None,
        max_samples: int = MAX_SAMPLES,
    ) -> Outage:
        """Account for the window [start, end) of CLOCK_MONOTONIC, as soon as it is final: the answer time-out later.

        Raises:
            Failed: the probe is gone without having recorded that far, or has stopped recording.
        """
        self.wait_recorded(end_ns + round(self._answer_timeout_s * _NS_PER_S))
        return outage_between(
            self.samples(kind),
            start_ns,
            end_ns,
            answer_timeout_s=self._answer_timeout_s,
            origin_ns=origin_ns,
            max_samples=max_samples,
        )

    def answers_around(self, kind: str, moment_ns: int, origin_ns: int) -> dict[str, float | None]:
        """When the last answer before and the first after a VM ran arrived, as a report's outage tells it; in s."""
        last_ns, first_ns = answers_around(self.samples(kind), moment_ns)
        return {
            "last_answer_before_run_s": None if last_ns is None else round((last_ns - origin_ns) / _NS_PER_S, 6),
            "first_answer_after_run_s": None if first_ns is None else round((first_ns - origin_ns) / _NS_PER_S, 6),
        }

    def connection(self, kind: str, start_ns: int, end_ns: int) -> Connection | None:
        """What became of the "tcp" or "http" connection until `end_ns`; None for other kinds."""
        self.wait_recorded(end_ns)
        return connection_between(self.samples(kind), start_ns, end_ns)

    def wait_recorded(self, until_ns: int) -> None:
        """Wait until everything before the moment `until_ns` is recorded, or the probe has finished in good order."""
        patience_s = max(0.0, (until_ns - time.monotonic_ns()) / _NS_PER_S) + _EXIT_S
        deadline = time.monotonic() + patience_s
        while True:
            is_running = self.is_running
            self._reader.update()
            if self._reader.streams and self._reader.streams[0].recorded_until_ns >= until_ns:
                return
            if not is_running:
                if self._process.returncode == 0:
                    return
                raise self._broke()
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failed(
                    f"the probe (process {self.pid}) recorded nothing for {patience_s:.0f} s",
                    "see whether it or the disk is stuck",
                )
            time.sleep(min(_LOOK_EVERY_S, left))

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait until the probe ends by itself (its duration), at most `timeout_s`; tell whether it has."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, *, timeout_s: float | None = None) -> None:
        """Ask nothing more, take in the last answers, and wait for the end. Does nothing when it has ended.

        Raises:
            Failed: it broke, or did not end within `timeout_s` (default: the answer time-out and 5 s) and was killed.
        """
        timeout_s = self._answer_timeout_s + _EXIT_S if timeout_s is None else timeout_s
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise Failed(f"the probe did not end within {timeout_s:g} s and was killed") from None
        if status != 0:
            raise self._broke()

    def close(self) -> None:
        """End it whatever it does, kindly if it can be; says nothing. What is recorded stays."""
        try:
            self.stop()
        except Failed:
            pass
        finally:
            if self.is_running:
                self._process.kill()
                self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout, self._errors):
                if pipe is not None:
                    pipe.close()

    def _next_event(self, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - we asked for the pipe
        while b"\n" not in self._unread:
            if not select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Failed(f"the probe was not connected within {timeout_s:g} s")
            if not (data := stdout.read(4096)):
                self._process.wait()
                raise self._broke()
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event

    def _broke(self) -> Failed:
        told = self._unread.decode(errors="replace").strip().splitlines()
        if told and '"message"' in told[-1]:
            record = json.loads(told[-1])
            return Failed(record["message"], record["remedy"])
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else "it said nothing"
        return Failed(f"the probe ended with status {self._process.returncode}: {why}")
