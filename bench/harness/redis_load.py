#!/usr/bin/env python3
"""A load generator for Redis that knows what every key must hold.

    redis_load.py ADDRESS PORT RECORD [--keys N] [--value-bytes N] [--rate N]

One connection, which is never made anew: a break is an error. Batches of `BATCH`, `--rate` commands a second: SET a
random key to a new value, GET a random key and compare, INCR a counter and compare. Says `ready` when all keys are
there; ends when its standard input ends: then it reads every key once more and prints one JSON object. RECORD gets
pairs of 64-bit numbers, (CLOCK_MONOTONIC in ns, commands answered), one pair for each batch. It runs by itself, with
the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import socket
import sys
import time
import zlib
from array import array
from pathlib import Path

BATCH = 16
CONNECT_S = 30.0
ANSWER_S = 30.0
SET_SHARE = 0.7
CATCH_UP_S = 1.0  # after a pause it makes up for this much, and does not rush for longer


class WrongError(Exception):
    """Redis answered with what it should not."""


class Redis:
    """One connection, commands in batches."""

    def __init__(self, address: str, port: int) -> None:
        deadline = time.monotonic() + CONNECT_S
        while True:
            try:
                self._socket = socket.create_connection((address, port), timeout=1)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(ANSWER_S)
        self._file = self._socket.makefile("rb")

    def ask(self, commands: list[tuple[bytes, ...]]) -> list[bytes | int]:
        """Send all, then read all answers."""
        out = bytearray()
        for command in commands:
            out += b"*%d\r\n" % len(command)
            for word in command:
                out += b"$%d\r\n%s\r\n" % (len(word), word)
        self._socket.sendall(out)
        return [self._answer() for _ in commands]

    def _answer(self) -> bytes | int:
        line = self._file.readline()
        if not line:
            raise ConnectionError("Redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            size = int(rest)
            return b"" if size < 0 else self._file.read(size + 2)[:-2]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        raise WrongError(rest.decode(errors="replace"))


class Model:
    """What Redis must hold: a version for each key, from which its value follows."""

    def __init__(self, keys: int, value_bytes: int) -> None:
        self.versions = [0] * keys
        self.counter = 0
        self.wrong: list[str] = []
        self._filling = random.Random(1).randbytes(value_bytes)

    def key(self, number: int) -> bytes:
        return b"key:%d" % number

    def value(self, number: int) -> bytes:
        """The value of a key in its present version: its own name, a checksum, and filling that no page shares."""
        head = b"%d:%d:" % (number, self.versions[number])
        turn = zlib.crc32(head) % len(self._filling)
        return head + self._filling[turn:] + self._filling[:turn]

    def batch(self, source: random.Random) -> list[tuple[tuple[bytes, ...], bytes | int]]:
        """Return commands, each with the answer that it must get, and change the model as Redis will."""
        self.counter += 1
        planned: list[tuple[tuple[bytes, ...], bytes | int]] = [((b"INCR", b"counter"), self.counter)]
        for _ in range(BATCH - 1):
            number = source.randrange(len(self.versions))
            if source.random() < SET_SHARE:
                self.versions[number] += 1
                planned.append(((b"SET", self.key(number), self.value(number)), b"OK"))
            else:
                planned.append(((b"GET", self.key(number)), self.value(number)))
        return planned

    def check(self, command: tuple[bytes, ...], answer: bytes | int, expected: bytes | int) -> None:
        """Note an answer that is not the one expected."""
        if answer != expected:
            said = answer[:40] if isinstance(answer, bytes) else answer
            wanted = expected[:40] if isinstance(expected, bytes) else expected
            self.wrong.append(f"{b' '.join(command[:2]).decode()} was answered {said!r}, not {wanted!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("record", type=Path)
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--value-bytes", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=500, help="commands a second")
    options = parser.parse_args()
    redis = Redis(options.address, options.port)
    model = Model(options.keys, options.value_bytes)
    numbers = range(options.keys)
    for start in range(0, options.keys, BATCH):
        part = numbers[start : start + BATCH]
        redis.ask([(b"SET", model.key(number), model.value(number)) for number in part])
    print("ready", flush=True)
    record = array("q")
    error, commands_done = "", 0
    try:
        commands_done = run(redis, model, options.rate, record)
        for start in range(0, options.keys, BATCH):
            commands = [(b"GET", model.key(number)) for number in numbers[start : start + BATCH]]
            for number, command, answer in zip(numbers[start:], commands, redis.ask(commands), strict=False):
                model.check(command, answer, model.value(number))
    except (OSError, WrongError) as failure:
        error = str(failure)
    with options.record.open("wb") as file:
        record.tofile(file)
    told = {"commands": commands_done, "keys": options.keys, "wrong": len(model.wrong), "first_wrong": model.wrong[:3]}
    print(json.dumps({**told, "error": error}), flush=True)


def run(redis: Redis, model: Model, rate: float, record: array[int]) -> int:
    """Work until standard input ends; return how many commands were answered."""
    source = random.Random(2)
    done = 0
    due = time.monotonic()
    while True:
        wait_s = max(0.0, due - time.monotonic())
        if select.select([sys.stdin], [], [], wait_s)[0]:
            return done
        due = max(due + BATCH / rate, time.monotonic() - CATCH_UP_S)
        planned = model.batch(source)
        answers = redis.ask([command for command, _ in planned])
        record.extend((time.monotonic_ns(), len(answers)))
        for (command, expected), answer in zip(planned, answers, strict=True):
            model.check(command, answer, expected)
        done += len(answers)


if __name__ == "__main__":
    main()
