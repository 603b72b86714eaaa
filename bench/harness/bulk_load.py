#!/usr/bin/env python3
"""Bulk TCP through the guest's echo service: sends as fast as it is taken, and checks every byte that comes back.

    bulk_load.py ADDRESS PORT RECORD

One connection, which is never made anew: a break is an error. Says `ready` when the first bytes are back; ends when its
standard input ends and prints one JSON object. RECORD gets pairs of 64-bit numbers, (CLOCK_MONOTONIC in ns, bytes that
came back), one pair for each read. It runs by itself, with the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import socket
import struct
import sys
import time
from array import array
from pathlib import Path

PERIOD_BYTES = 1 << 20  # the stream repeats itself after a prime less than that, which no page or window divides
CHUNK_BYTES = 64 * 1024
BUFFER_BYTES = 256 * 1024  # of the socket, each way: more would only wait in queues before an emulated guest
LAST_ANSWERS_S = 10.0
TCP_INFO_BYTES = 104
TOTAL_RETRANS_AT = 100  # tcpi_total_retrans in struct tcp_info of linux/tcp.h


class Stream:
    """What was sent and what came back, as positions in one endless sequence of bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        period = random.Random(3).randbytes(PERIOD_BYTES - 3)
        self._period = len(period)
        self._twice = memoryview(period + period)
        self.sent = self.received = self.wrong = 0
        self._buffer = memoryview(bytearray(CHUNK_BYTES))

    def send(self) -> None:
        start = self.sent % self._period
        try:
            self.sent += self.sock.send(self._twice[start : start + CHUNK_BYTES])
        except BlockingIOError:
            return

    def receive(self) -> int:
        size = self.sock.recv_into(self._buffer)
        if not size:
            raise ConnectionError("the guest closed the connection")
        start = self.received % self._period
        if self._buffer[:size] != self._twice[start : start + size]:
            self.wrong += 1
        self.received += size
        return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("record", type=Path)
    options = parser.parse_args()
    record = array("q")
    error = ""
    sock = socket.socket()
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES // 2)  # the kernel doubles it for its own needs
    sock.settimeout(10)
    sock.connect((options.address, options.port))
    sock.setblocking(False)
    stream = Stream(sock)
    try:
        run(stream, record)
    except OSError as failure:
        error = str(failure)
    with options.record.open("wb") as file:
        record.tofile(file)
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    told = {
        "bytes": stream.received,
        "wrong": stream.wrong,
        "missing": stream.sent - stream.received,
        "retransmitted_segments": struct.unpack_from("I", info, TOTAL_RETRANS_AT)[0],
        "error": error,
    }
    print(json.dumps(told), flush=True)


def run(stream: Stream, record: array[int]) -> None:
    """Work until standard input ends, then take in what is still under way."""
    poll = select.poll()
    poll.register(sys.stdin, select.POLLIN | select.POLLHUP)
    poll.register(stream.sock, select.POLLIN | select.POLLOUT)
    ending_s = 0.0
    is_ready = False
    while not ending_s or (stream.received < stream.sent and time.monotonic() < ending_s):
        for descriptor, mask in poll.poll(1000):
            if descriptor != stream.sock.fileno():
                ending_s = time.monotonic() + LAST_ANSWERS_S
                poll.unregister(sys.stdin)
                poll.modify(stream.sock, select.POLLIN)
                continue
            if mask & select.POLLIN:
                size = stream.receive()
                record.extend((time.monotonic_ns(), size))
                if not is_ready:
                    is_ready = True
                    print("ready", flush=True)
            if mask & select.POLLOUT and not ending_s:
                stream.send()
            if mask & (select.POLLERR | select.POLLHUP) and not mask & select.POLLIN:
                raise ConnectionError("the connection broke")


if __name__ == "__main__":
    main()
