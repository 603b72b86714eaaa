"""The numbered records that a guest sends to the network, heard on the lab's client: a second guest forks the chain."""

from __future__ import annotations

import select
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Self

from bascule.lab.faults.inside import enter
from bascule.lab.guest.sequence_network import PORT
from bascule.lab.guest.sequence_record import Record, unpack

_REMEMBERED = 20_000


@dataclass(slots=True)
class Chain:
    """What was heard of one boot of a guest. Records may be lost, repeated and out of order; one guest never forks."""

    last: int = -1
    heard: int = 0
    forks: list[str] = field(default_factory=list)
    _checks: dict[int, int] = field(default_factory=dict)
    _previous: dict[int, int] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Take in one record."""
        self.heard += 1
        number = record.number
        known = self._checks.get(number)
        if known == record.check:
            return
        if known is not None:
            self.forks.append(f"record {number} was sent twice with different content")
        before = self._checks.get(number - 1)
        if before is not None and number and before != record.previous:
            self.forks.append(f"record {number} follows another record {number - 1} than the one that was sent")
        after = self._previous.get(number + 1)
        if after is not None and after != record.check:
            self.forks.append(f"record {number} is another one than record {number + 1} follows")
        self._checks[number], self._previous[number] = record.check, record.previous
        self.last = max(self.last, number)
        for past in (self._checks, self._previous):
            past.pop(number - _REMEMBERED, None)


class NetworkWatch:
    """Listens in a network namespace; a context manager."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._chains: dict[bytes, Chain] = {}
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._trouble: OSError | None = None
        self._thread = threading.Thread(target=self._run, name=f"listen in {namespace}")
        self.last_heard_s = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._trouble is not None:
            raise self._trouble
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def forks(self) -> list[str]:
        """Return a sentence for each place where a chain forked, so far."""
        with self._lock:
            return [fork for chain in self._chains.values() for fork in chain.forks]

    @property
    def heard(self) -> int:
        """How many records were heard."""
        with self._lock:
            return sum(chain.heard for chain in self._chains.values())

    def _run(self) -> None:
        try:
            sock = self._open()
        except OSError as error:
            self._trouble = error
            return
        finally:
            self._ready.set()
        with sock:
            while not self._stop.is_set():
                if select.select([sock], [], [], 0.1)[0]:
                    self._take(sock.recv(2048))

    def _open(self) -> socket.socket:
        enter(self._namespace)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("", PORT))
        return sock

    def _take(self, data: bytes) -> None:
        record = unpack(data) if len(data) >= 76 else None
        if record is not None:
            with self._lock:
                self._chains.setdefault(record.boot_id, Chain()).add(record)
                self.last_heard_s = time.time()
