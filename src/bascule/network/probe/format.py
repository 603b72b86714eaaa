"""The file in which a probe keeps its samples while it runs, and how to read it, also meanwhile.

    one line of JSON    {"format": "bascule-probe", "version": 1, "byteorder": "little", "streams": [...], ...}
    blocks, appended    header (16 bytes: magic, stream, kind, count, recorded-until) and its payload

    kind       payload
    SENT       count of int64: when the next `count` probes of the stream were sent
    ANSWERS    count of uint32: their numbers; count of int64: when they arrived, in that order
    PAUSES     count of int64: begins; count of int64: ends; count of uint8: `PauseCause`
    ARRIVED    count of int64: when bytes of a bulk stream were read; count of uint32: how many each time
    EVENT      count bytes of JSON: {"at_ns", "what", ...}
    MARK       nothing: all streams are recorded until the header's time
    STOPPED    nothing: from the header's time on nothing more is asked

Blocks are in the machine's byte order, as the first line says. A block that is not whole is still being written, and
is left for the next look. Twenty bytes for a probe and its answer: 72 MB an hour at 1 kHz.
"""

from __future__ import annotations

import json
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

from bascule.errors import Refused
from bascule.network.probe.samples import Event, Samples, StreamInfo

VERSION = 1
ALL_STREAMS = 255
_FORMAT = "bascule-probe"
_BEGINNING = b'{"format"'
_MAGIC = 0xB5C0
_HEADER = struct.Struct("=HBBIq")


class Kind(IntEnum):
    """What a block holds."""

    SENT = 1
    ANSWERS = 2
    PAUSES = 3
    EVENT = 4
    MARK = 5
    STOPPED = 6
    ARRIVED = 7


_BYTES_EACH = {
    Kind.SENT: 8,
    Kind.ANSWERS: 4 + 8,
    Kind.PAUSES: 8 + 8 + 1,
    Kind.EVENT: 1,
    Kind.MARK: 0,
    Kind.STOPPED: 0,
    Kind.ARRIVED: 8 + 4,
}


def first_line(streams: Sequence[StreamInfo], facts: Mapping[str, Any]) -> bytes:
    """The head of a recording. `facts` are about the probe: its scheduling, when it began."""
    head = {
        "format": _FORMAT,
        "version": VERSION,
        "byteorder": sys.byteorder,
        "clock": "CLOCK_MONOTONIC",
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        **facts,
        "streams": [{"kind": stream.kind, "target": stream.target, "hz": stream.hz} for stream in streams],
    }
    return json.dumps(head).encode() + b"\n"


def block(kind: Kind, stream: int, *columns: array[int], at_ns: int = 0) -> bytes:
    """A block with columns of equal length."""
    count = len(columns[0]) if columns else 0
    return _HEADER.pack(_MAGIC, stream, kind, count, at_ns) + b"".join(column.tobytes() for column in columns)


def event_block(stream: int, event: Event) -> bytes:
    """A block with one event."""
    text = json.dumps({"at_ns": event.at_ns, "what": event.what, **event.facts}).encode()
    return _HEADER.pack(_MAGIC, stream, Kind.EVENT, len(text), event.at_ns) + text


class RecordingReader:
    """Reads a recording bit by bit while it grows. `update` after `update`, `streams` holds ever more samples."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.head: dict[str, Any] = {}
        self.streams: list[Samples] = []

    def update(self) -> None:
        """Take in all that was written since the last time.

        Raises:
            Refused: no such file, or not a recording of this version and byte order.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError as error:
            raise Refused(f"cannot read recording {self._path}: {error.strerror}") from error
        begin = 0
        if not self.head:
            begin = data.find(b"\n") + 1
            if not begin:
                if data[: len(_BEGINNING)] != _BEGINNING[: len(data)]:
                    raise self._is_foreign("it is no recording of a probe")
                return
            self._read_head(data[: begin - 1])
        self._offset += begin + self._read_blocks(memoryview(data)[begin:])

    def _read_head(self, line: bytes) -> None:
        try:
            head = json.loads(line)
            ours = head["format"] == _FORMAT and head["version"] == VERSION and head["byteorder"] == sys.byteorder
        except (ValueError, KeyError, TypeError):
            raise self._is_foreign("it is no recording of a probe") from None
        if not ours:
            raise self._is_foreign(f"it is not of version {VERSION} and {sys.byteorder}-endian, as this program's are")
        self.head = head
        self.streams = [Samples(StreamInfo(**stream)) for stream in head["streams"]]

    def _read_blocks(self, data: memoryview) -> int:
        """Take in all whole blocks and return how many bytes they have."""
        offset = 0
        while len(data) - offset >= _HEADER.size:
            magic, stream, kind, count, at_ns = _HEADER.unpack_from(data, offset)
            if magic != _MAGIC or kind not in _BYTES_EACH:
                raise self._is_foreign("it is damaged")
            end = offset + _HEADER.size + _BYTES_EACH[kind] * count
            if end > len(data):
                break
            self._take(stream, Kind(kind), count, at_ns, data[offset + _HEADER.size : end])
            offset = end
        return offset

    def _take(self, number: int, kind: Kind, count: int, at_ns: int, payload: memoryview) -> None:
        if kind in (Kind.MARK, Kind.STOPPED):
            for samples in self.streams:
                if kind is Kind.MARK:
                    samples.recorded_until_ns = at_ns
                else:
                    samples.stopped_at_ns = at_ns
            return
        samples = self.streams[number]
        if kind is Kind.SENT:
            samples.sent_at_ns.frombytes(payload)
        elif kind is Kind.ANSWERS:
            samples.answer_sequence.frombytes(payload[: 4 * count])
            samples.answer_at_ns.frombytes(payload[4 * count :])
        elif kind is Kind.ARRIVED:
            samples.arrived_at_ns.frombytes(payload[: 8 * count])
            samples.arrived_bytes.frombytes(payload[8 * count :])
        elif kind is Kind.PAUSES:
            samples.pause_begin_ns.frombytes(payload[: 8 * count])
            samples.pause_end_ns.frombytes(payload[8 * count : 16 * count])
            samples.pause_cause.frombytes(payload[16 * count :])
        else:
            facts = json.loads(bytes(payload))
            samples.events.append(Event(facts.pop("at_ns"), facts.pop("what"), facts))

    def _is_foreign(self, why: str) -> Refused:
        return Refused(f"cannot read recording {self._path}: {why}", "give a file that a probe wrote on such a machine")


def load_samples(path: Path) -> dict[str, Samples]:
    """Read a recording, finished or growing: samples by kind ("icmp", "udp", ...).

    Raises:
        Refused: no such file, or not a recording of this version and byte order.
    """
    reader = RecordingReader(path)
    reader.update()
    return {samples.stream.kind: samples for samples in reader.streams}
