"""The probe's process against real services on loopback: what it records, how it begins and how it ends."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bascule.errors import Failed, Refused
from bascule.network.outage import outage_between
from bascule.network.probe.format import load_samples
from bascule.network.probe.samples import PauseCause, Samples
from bascule.network.probe.session import ProbeSession

PATIENCE_S = 30.0
S = 1_000_000_000
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

Handler = Callable[[socket.socket, int], None]


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def echo(connection: socket.socket, _number: int) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def serve_pages(connection: socket.socket, _number: int) -> None:
    asked = b""
    while data := connection.recv(65536):
        asked += data
        while b"\r\n\r\n" in asked:
            asked = asked.partition(b"\r\n\r\n")[2]
            connection.sendall(PAGE)


@contextmanager
def tcp_server(handle: Handler, family: socket.AddressFamily = socket.AF_INET) -> Iterator[str]:
    """Serve connections by `handle`, which is told the number of the connection; give its address."""
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def run(connection: socket.socket, number: int) -> None:
        with connection, suppress(OSError):  # the probe went away, or the test is over
            handle(connection, number)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections.append(connection)
            threads.append(threading.Thread(target=run, args=(connection, len(connections))))
            threads[-1].start()

    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for connection in connections:
                with suppress(OSError):  # closed already
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


@contextmanager
def udp_echo() -> Iterator[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        name = sock.getsockname()

        def run() -> None:
            while True:
                data, sender = sock.recvfrom(2048)
                if not data:
                    return
                sock.sendto(data, sender)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"127.0.0.1:{name[1]}"
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.sendto(b"", name)
            thread.join()


def answered(probe: ProbeSession, kind: str, count: int) -> Samples:
    wait_until(lambda: len(probe.samples(kind).answer_at_ns) >= count, f"{count} answers by {kind}")
    return probe.samples(kind)


def events(samples: Samples, what: str) -> list[dict[str, object]]:
    return [dict(event.facts) for event in samples.events if event.what == what]


def test_three_streams_side_by_side(tmp_path: Path) -> None:
    with udp_echo() as udp, tcp_server(echo) as tcp, tcp_server(serve_pages) as http:
        begin = time.monotonic_ns()
        with ProbeSession.start(tmp_path / "recording", udp=udp, tcp=tcp, http=f"http://{http}/", hz=200) as probe:
            probe.wait_connected()
            assert probe.silent == ()
            for kind in ("udp", "tcp", "http"):
                answered(probe, kind, 60)
            probe.stop()
            end = time.monotonic_ns()
            for kind in ("udp", "tcp", "http"):
                seen = probe.outage(kind, begin, end)
                assert (seen.lost, seen.duplicated, seen.reordered) == (0, 0, 0), seen
                assert seen.sent == len(probe.samples(kind).sent_at_ns) >= 60
                assert seen.rtt_median_ms is not None
                assert seen.longest_silence_ms is not None
                assert seen.longest_silence_ms >= seen.rtt_median_ms
            stream = probe.connection("tcp", begin, end)
            assert stream is not None
            assert stream.is_unbroken
            assert stream.verified_bytes == 8 * len(probe.samples("tcp").sent_at_ns)
            assert "same since the start" in probe.outage("tcp", begin, end).note
    samples = load_samples(tmp_path / "recording")
    assert samples["udp"].stopped_at_ns is not None
    assert begin < samples["udp"].stopped_at_ns < end
    assert outage_between(samples["udp"], begin, end).sent == len(samples["udp"].sent_at_ns)


def test_every_moment_at_which_it_did_not_send_is_recorded(tmp_path: Path) -> None:
    """Also when it is frozen for a while: it neither hides that nor makes up for it in a burst."""
    with udp_echo() as udp, ProbeSession.start(tmp_path / "recording", udp=udp, hz=1000) as probe:
        probe.wait_connected()
        sent_before = len(answered(probe, "udp", 50).sent_at_ns)
        os.kill(probe.pid, signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{probe.pid}/stat").read_text().rpartition(") ")[2][0] == "T", "its stop")
        frozen_ns = time.monotonic_ns()
        wait_until(lambda: time.monotonic_ns() > frozen_ns + S // 2, "the clock")
        thawed_ns = time.monotonic_ns()
        os.kill(probe.pid, signal.SIGCONT)
        answered(probe, "udp", sent_before + 50)
        probe.stop()
        samples = probe.samples("udp")
        late = samples.pauses(PauseCause.LATE, 0, thawed_ns + S)
        assert any(begin <= frozen_ns + S // 1000 and end >= thawed_ns for begin, end in late)
        for before, after in pairwise(samples.sent_at_ns):
            if after - before > 2_000_000:
                assert any(begin < after and end > before for begin, end in late), (before, after)
        seen = outage_between(samples, frozen_ns, thawed_ns)
        assert "was not scheduled" in seen.note
        assert "into the longest silence" in seen.note
        assert seen.longest_silence_ms is not None
        assert seen.longest_silence_ms >= 250  # the service may have answered the last one late


def test_a_connection_that_breaks_is_made_anew_and_told(tmp_path: Path) -> None:
    def break_the_first(connection: socket.socket, number: int) -> None:
        if number == 1:
            connection.sendall(connection.recv(8))
            return
        echo(connection, number)

    with tcp_server(break_the_first) as tcp, ProbeSession.start(tmp_path / "recording", tcp=tcp, hz=200) as probe:
        begin = time.monotonic_ns()
        probe.wait_connected()
        answered(probe, "tcp", 20)
        probe.stop()
        stream = probe.connection("tcp", begin, time.monotonic_ns())
        assert stream is not None
        assert (stream.is_unbroken, stream.reconnections, stream.breaks, stream.corrupt) == (False, 1, 1, 0)
        assert "made anew once" in probe.outage("tcp", begin, time.monotonic_ns()).note
        assert len(events(probe.samples("tcp"), "disconnected")) == 1


def test_a_wrong_byte_is_found_where_it_is(tmp_path: Path) -> None:
    def spoil(connection: socket.socket, number: int) -> None:
        seen = 0
        while data := connection.recv(65536):
            changed = bytearray(data)
            place = 8 * 10 + 5  # of the first connection: in probe number 10
            if number == 1 and seen <= place < seen + len(data):
                changed[place - seen] ^= 0x40
            seen += len(data)
            connection.sendall(bytes(changed))

    with tcp_server(spoil) as tcp, ProbeSession.start(tmp_path / "recording", tcp=tcp, hz=200) as probe:
        probe.wait_connected()
        answered(probe, "tcp", 30)
        probe.stop()
        samples = probe.samples("tcp")
        assert events(samples, "corrupt") == [{"expected": 10, "got": "000000000040000a"}]
        assert list(samples.answer_sequence[:10]) == list(range(10))
        assert 10 not in samples.answer_sequence
        assert "WRONG BYTES" in outage_between(samples, 0, time.monotonic_ns()).note


def test_a_stream_cut_anywhere_is_put_together(tmp_path: Path) -> None:
    def dribble(connection: socket.socket, _number: int) -> None:
        while data := connection.recv(3):
            connection.sendall(data)

    with tcp_server(dribble) as tcp, ProbeSession.start(tmp_path / "recording", tcp=tcp, hz=100) as probe:
        probe.wait_connected()
        answered(probe, "tcp", 30)
        probe.stop()
        samples = probe.samples("tcp")
        assert list(samples.answer_sequence) == list(range(len(samples.sent_at_ns)))
        assert not events(samples, "corrupt")


def test_http_asks_one_at_a_time_and_tells_other_statuses(tmp_path: Path) -> None:
    slow = threading.Event()

    def serve(connection: socket.socket, _number: int) -> None:
        count = 0
        while connection.recv(65536):
            count += 1
            if count == 5:
                slow.wait(PATIENCE_S)
            status = b"503 Service Unavailable" if count == 3 else b"200 OK"
            connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

    with tcp_server(serve) as http, ProbeSession.start(tmp_path / "recording", http=f"http://{http}", hz=100) as probe:
        probe.wait_connected()
        answered(probe, "http", 4)
        samples = probe.samples("http")
        wait_until(lambda: len(probe.samples("http").sent_at_ns) == 5, "the question without an answer")

        def waited_ns() -> int:
            pauses = probe.samples("http").pauses(PauseCause.WAITING, samples.sent_at_ns[4], 1 << 62)
            return sum(end - begin for begin, end in pauses)

        wait_until(lambda: waited_ns() > S // 5, "waiting to be recorded")
        slow.set()
        answered(probe, "http", 20)
        probe.stop()
        seen = outage_between(samples, samples.sent_at_ns[3], samples.sent_at_ns[5])
        assert (seen.sent, seen.lost) == (2, 0)
        assert seen.rtt_max_ms is not None
        assert seen.rtt_max_ms > 200
        assert "waits for the answer to the last one" in seen.note
        assert events(samples, "bad-status") == [{"status": 503, "count": 1}]


def test_a_server_that_does_not_keep_the_connection(tmp_path: Path) -> None:
    def serve_one(connection: socket.socket, _number: int) -> None:
        connection.recv(65536)
        connection.sendall(PAGE)

    with (
        tcp_server(serve_one) as http,
        ProbeSession.start(tmp_path / "recording", http=f"http://{http}", hz=100) as probe,
    ):
        probe.wait_connected()
        answered(probe, "http", 3)
        probe.stop()
        reasons = events(probe.samples("http"), "disconnected")
        assert {"reason": "the other side closed it"} in reasons
        stream = probe.connection("http", 0, time.monotonic_ns())
        assert stream is not None
        assert stream.reconnections >= 2


def test_ipv6(tmp_path: Path) -> None:
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    with (
        tcp_server(echo, socket.AF_INET6) as tcp,
        ProbeSession.start(tmp_path / "recording", tcp=tcp, hz=100) as probe,
    ):
        probe.wait_connected()
        answered(probe, "tcp", 5)


def test_nothing_is_imported_from_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be root's shell in anybody's folder."""
    for name in ("json", "queue", "bascule"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    with udp_echo() as udp, ProbeSession.start(tmp_path / "recording", udp=udp, hz=100) as probe:
        probe.wait_connected()


def test_an_udp_target_may_be_silent(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute,
        ProbeSession.start(
            tmp_path / "recording",
            udp=f"127.0.0.1:{_bind(mute)}",
            hz=100,
            answer_timeout_s=0.2,
            connect_timeout_s=0.2,
            duration_s=0.3,
        ) as probe,
    ):
        probe.wait_connected()
        assert probe.silent == ("udp",)
        assert probe.wait_ended(PATIENCE_S)
        samples = probe.samples("udp")
        assert samples.stopped_at_ns is not None
        seen = outage_between(samples, samples.sent_at_ns[0], samples.stopped_at_ns, answer_timeout_s=0.2)
        assert seen.lost == seen.sent > 0
        assert seen.note == "" or "was not scheduled" in seen.note


def test_an_udp_service_that_goes_away(tmp_path: Path) -> None:
    with udp_echo() as udp:
        probe = ProbeSession.start(tmp_path / "recording", udp=udp, hz=200)
        probe.wait_connected()
        answered(probe, "udp", 10)
    with probe:
        wait_until(lambda: probe.samples("udp") and events(probe.samples("udp"), "unreachable"), "ICMP")
        probe.stop()
        seen = outage_between(probe.samples("udp"), 0, time.monotonic_ns())
        assert seen.lost > 0
        assert "Connection refused" in seen.note


@pytest.mark.parametrize("kind", ["udp", "tcp", "http"])
def test_nothing_listens(tmp_path: Path, kind: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as unused:
        target = f"127.0.0.1:{_bind(unused)}"
        if kind == "udp":
            unused.close()
        named: dict[str, Any] = {kind: f"http://{target}/" if kind == "http" else target}
        with (
            ProbeSession.start(tmp_path / "recording", **named) as probe,
            pytest.raises(Refused, match=r"cannot probe .*(refused|nothing listens)") as refused,
        ):
            probe.wait_connected()
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("named", "match"),
    [
        ({"udp": "no-such-host.invalid:7"}, "cannot be resolved"),
        ({"udp": "127.0.0.1:7", "namespace": "no-such-namespace"}, "network namespace no-such-namespace"),
        ({}, "no target"),
    ],
)
def test_refusals(tmp_path: Path, named: dict[str, Any], match: str) -> None:
    with (
        ProbeSession.start(tmp_path / "recording", **named) as probe,
        pytest.raises(Refused, match=match),
    ):
        probe.wait_connected()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with (
        udp_echo() as udp,
        ProbeSession.start(tmp_path / "nowhere" / "recording", udp=udp) as probe,
        pytest.raises(Refused, match="cannot write recording"),
    ):
        probe.wait_connected()


def test_a_killed_probe_is_not_taken_for_a_quiet_one(tmp_path: Path) -> None:
    with udp_echo() as udp, ProbeSession.start(tmp_path / "recording", udp=udp, hz=200) as probe:
        probe.wait_connected()
        samples = answered(probe, "udp", 10)
        os.kill(probe.pid, signal.SIGKILL)
        wait_until(lambda: not probe.is_running, "its end")
        with pytest.raises(Failed, match="ended with status -9"):
            probe.outage("udp", samples.sent_at_ns[0], time.monotonic_ns())
        with pytest.raises(Failed, match="ended with status -9"):
            probe.stop()


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "stdin"])
def test_it_ends_when_told(tmp_path: Path, way: str) -> None:
    argv = [sys.executable, "-m", "bascule.network.probe", "--hz", "200"]
    with (
        udp_echo() as udp,
        subprocess.Popen(
            [*argv, "--udp", udp, "--output", str(tmp_path / "recording")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdin is not None
        connected = json.loads(process.stdout.readline())
        assert connected["event"] == "connected"
        assert connected["at_ns"] <= time.monotonic_ns()
        if way == "stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.Signals[way])
        assert process.wait(PATIENCE_S) == 0
        assert json.loads(process.stdout.readline()) == {"event": "finished"}
    assert load_samples(tmp_path / "recording")["udp"].stopped_at_ns is not None


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed, and the pipe to the probe's stdin closes with it."""
    starter = (
        "import sys, time; from pathlib import Path; from bascule.network.probe.session import ProbeSession\n"
        "probe = ProbeSession.start(Path(sys.argv[1]), udp=sys.argv[2], hz=100); probe.wait_connected()\n"
        "print(probe.pid, flush=True); time.sleep(600)"
    )
    with (
        udp_echo() as udp,
        subprocess.Popen(
            [sys.executable, "-c", starter, str(tmp_path / "recording"), udp], stdout=subprocess.PIPE, text=True
        ) as parent,
    ):
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        pidfd = os.pidfd_open(pid)
        parent.kill()
        parent.wait()
        ended = _wait_ended(pidfd)
        os.close(pidfd)
        assert ended


def _wait_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], PATIENCE_S)[0])


def _bind(sock: socket.socket) -> int:
    sock.bind(("127.0.0.1", 0))
    return int(sock.getsockname()[1])


def test_a_bulk_stream_is_whole_and_its_bytes_are_counted(tmp_path: Path) -> None:
    passed: list[int] = []

    def counting(connection: socket.socket, _number: int) -> None:
        while data := connection.recv(65536):
            passed.append(len(data))
            connection.sendall(data)

    with tcp_server(counting) as bulk, ProbeSession.start(tmp_path / "recording", bulk=bulk) as probe:
        probe.wait_connected()
        wait_until(lambda: sum(probe.samples("bulk").arrived_bytes) > 3 << 20, "more than one period of the stream")
        probe.stop()
        samples = probe.samples("bulk")
        seen = probe.outage("bulk", samples.sent_at_ns[0], time.monotonic_ns())
        assert (seen.lost, seen.duplicated, seen.reordered) == (0, 0, 0), seen
        assert seen.throughput is not None
        assert seen.throughput.total_bytes == sum(seen.throughput.bytes) == sum(passed)
        assert f"the same since the start; {sum(passed):,} bytes came back verified" in seen.note
        assert not samples.pauses(PauseCause.FULL, 0, time.monotonic_ns())


def test_a_bulk_stream_with_a_wrong_byte_is_ended_and_another_one_made(tmp_path: Path) -> None:
    def spoiling(connection: socket.socket, number: int) -> None:
        left = 200_000 if number == 1 else 1 << 40
        while data := connection.recv(65536):
            spoiled = bytes([data[0] ^ 1]) + data[1:] if left < 0 else data
            left -= len(data)
            connection.sendall(spoiled)

    with tcp_server(spoiling) as bulk, ProbeSession.start(tmp_path / "recording", bulk=bulk) as probe:
        probe.wait_connected()
        wait_until(lambda: len(events(probe.samples("bulk"), "connected")) == 2, "another connection")
        before = len(probe.samples("bulk").arrived_bytes)
        wait_until(lambda: len(probe.samples("bulk").arrived_bytes) > before, "bytes over it")
        probe.stop()
        (corrupt,) = events(probe.samples("bulk"), "corrupt")
        assert corrupt["between"][1] > 200_000
        connection = probe.connection("bulk", 0, time.monotonic_ns())
        assert connection is not None
        assert "WRONG BYTES" in connection.sentence()
