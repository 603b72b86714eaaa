from __future__ import annotations

import os
from pathlib import Path

import pytest

from bascule.errors import Failed, Refused
from bascule.network.probe.format import RecordingReader, load_samples
from bascule.network.probe.log import StreamLog
from bascule.network.probe.recorder import Recorder
from bascule.network.probe.samples import Event, PauseCause, StreamInfo

INFOS = [StreamInfo("udp", "10.77.0.50:7", 1000.0), StreamInfo("http", "http://10.77.0.50/", 10.0)]


def begin(path: Path) -> Recorder:
    logs = [StreamLog(number, info) for number, info in enumerate(INFOS)]
    return Recorder(path, logs, {"scheduling": "as any process"})


def test_what_is_told_is_read(tmp_path: Path) -> None:
    recorder = begin(tmp_path / "recording")
    udp, http = recorder.logs
    udp.sent(100)
    udp.sent(200)
    udp.late(110)
    udp.sent(300)
    udp.answered(1, 250)
    udp.answered(0, 260)
    udp.answered(0, 270)
    udp.arrived(1448, 275)
    http.event(50, "connected")
    recorder.flush(280)
    http.sent(400)
    http.event(410, "disconnected", reason="the other side closed it")
    recorder.stopped(500)
    recorder.flush(600)
    recorder.close()

    read = load_samples(tmp_path / "recording")
    assert list(read) == ["udp", "http"]
    assert [read[info.kind].stream for info in INFOS] == INFOS
    assert list(read["udp"].sent_at_ns) == [100, 200, 300]
    assert list(read["udp"].answer_sequence) == [1, 0, 0]
    assert list(read["udp"].answer_at_ns) == [250, 260, 270]
    assert (list(read["udp"].arrived_at_ns), list(read["udp"].arrived_bytes)) == ([275], [1448])
    assert read["udp"].pauses(PauseCause.LATE, 0, 1000) == [(110, 200)]
    assert read["http"].events == [
        Event(50, "connected", {}),
        Event(410, "disconnected", {"reason": "the other side closed it"}),
    ]
    assert {(one.recorded_until_ns, one.stopped_at_ns) for one in read.values()} == {(600, 500)}


def test_arrivals_never_go_back_behind_the_last_one_or_their_sending(tmp_path: Path) -> None:
    recorder = begin(tmp_path / "recording")
    log = recorder.logs[0]
    for at in (100, 200, 300):
        log.sent(at)
    for number, at in ((0, 90), (1, 260), (2, 255)):
        log.answered(number, at)
    recorder.flush(400)
    recorder.close()
    assert list(load_samples(tmp_path / "recording")["udp"].answer_at_ns) == [100, 260, 300]


def test_a_held_probe_is_one_pause_until_the_next_is_sent(tmp_path: Path) -> None:
    recorder = begin(tmp_path / "recording")
    log = recorder.logs[0]
    log.sent(100)
    log.hold(200, PauseCause.WAITING)
    log.hold(300, PauseCause.WAITING)
    recorder.flush(350)
    log.hold(400, PauseCause.WAITING)
    log.hold(500, PauseCause.NO_CONNECTION)
    log.sent(600)
    log.sent(700)
    log.hold(800, PauseCause.FULL)
    recorder.stopped(900)
    recorder.flush(1000)
    recorder.flush(1100)
    recorder.close()
    read = load_samples(tmp_path / "recording")["udp"]
    assert read.pauses(PauseCause.WAITING, 0, 2000) == [(200, 350), (350, 500)]
    assert read.pauses(PauseCause.NO_CONNECTION, 0, 2000) == [(500, 600)]
    assert read.pauses(PauseCause.FULL, 0, 2000) == [(800, 900)]
    assert read.pauses(PauseCause.WAITING, 300, 400) == [(300, 350), (350, 400)]


def test_what_was_due_and_missed_at_the_end_is_late(tmp_path: Path) -> None:
    recorder = begin(tmp_path / "recording")
    udp, http = recorder.logs
    udp.sent(100)
    udp.missed(200, 500)
    http.sent(100)
    http.slow(600)
    http.missed(200, 500)  # the slow call covers it
    recorder.stopped(600)
    recorder.flush(700)
    recorder.close()
    read = load_samples(tmp_path / "recording")
    assert read["udp"].own_gaps(0, 1000) == [(200, 500)]
    assert read["http"].own_gaps(0, 1000) == [(100, 600)]


def test_what_happens_often_is_told_once_a_flush(tmp_path: Path) -> None:
    recorder = begin(tmp_path / "recording")
    log = recorder.logs[0]
    for number in (5, 6, 7, 9):
        log.refused(100 + number, number, 101)
        log.count(100 + number, "unreachable", errno=111)
    recorder.flush(200)
    log.count(210, "unreachable", errno=111)
    recorder.flush(300)
    recorder.close()
    events = load_samples(tmp_path / "recording")["udp"].events
    refused = [event.facts for event in events if event.what == "send-refused"]
    assert refused == [{"errno": 101, "first": 5, "last": 7}, {"errno": 101, "first": 9, "last": 9}]
    counted = [(event.at_ns, event.facts) for event in events if event.what == "unreachable"]
    assert counted == [(105, {"errno": 111, "count": 4}), (210, {"errno": 111, "count": 1})]


def test_which_probes_are_unanswered(tmp_path: Path) -> None:
    recorder = begin(tmp_path / "recording")
    log = recorder.logs[0]
    for at in range(100, 100 + 70_000):  # more than are remembered
        log.sent(at)
        log.answered(at - 100, at)
    assert not log.has_unanswered(0)
    log.sent(80_000)
    log.sent(80_001)
    log.answered(70_001, 80_005)
    assert log.has_unanswered(79_999)
    assert not log.has_unanswered(80_000)
    recorder.close()


def test_a_growing_file_is_read_bit_by_bit(tmp_path: Path) -> None:
    """Cut anywhere: whole blocks are taken, the rest is left for the next look."""
    recorder = begin(tmp_path / "whole")
    for at in range(5):
        recorder.logs[0].sent(at)
        recorder.logs[0].answered(at, at)
        recorder.logs[0].event(at, "connected")
        recorder.flush(at)
    recorder.close()
    whole = (tmp_path / "whole").read_bytes()
    growing = tmp_path / "growing"
    reader = RecordingReader(growing)
    for cut in range(len(whole) + 1):
        growing.write_bytes(whole[:cut])
        reader.update()
        if reader.streams:
            samples = reader.streams[0]
            assert len(samples.sent_at_ns) - 1 <= samples.recorded_until_ns + 1
    assert reader.streams[0] == load_samples(tmp_path / "whole")["udp"]
    assert len(reader.streams[0].sent_at_ns) == len(reader.streams[0].events) == 5


@pytest.mark.parametrize("content", [b"bogus", b"bogus\n", b'{"format": "bascule-probe", "version": 2}\n', b"[]\n"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recording"
    path.write_bytes(content)
    with pytest.raises(Refused, match="cannot read recording"):
        load_samples(path)


def test_damage_is_refused(tmp_path: Path) -> None:
    recorder = begin(tmp_path / "recording")
    recorder.close()
    with (tmp_path / "recording").open("ab") as file:
        file.write(b"x" * 100)
    with pytest.raises(Refused, match="damaged"):
        load_samples(tmp_path / "recording")


def test_no_such_place(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        begin(tmp_path / "nowhere" / "recording")
    with pytest.raises(Refused, match="No such file"):
        load_samples(tmp_path / "recording")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_probe(tmp_path: Path) -> None:
    recorder = begin(tmp_path / "recording")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, recorder._file.fileno())
    os.close(full)
    recorder.flush(1)
    with pytest.raises(Failed, match="No space left"):
        recorder.close()
    with pytest.raises(Failed, match="No space left"):
        recorder.flush(2)
