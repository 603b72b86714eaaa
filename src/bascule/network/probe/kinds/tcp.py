"""TCP echo over one connection: every byte is numbered by its place in the stream, and verified when it returns."""

from __future__ import annotations

import struct
import time

from bascule.network.probe.connection import WORD_BYTES
from bascule.network.probe.kinds.connected import ConnectedStream
from bascule.network.probe.log import StreamLog
from bascule.network.probe.target import Target


class TcpEcho(ConnectedStream):
    """Sends its number with each probe and compares what returns, byte for byte, with what was sent at that place."""

    def __init__(self, target: Target, log: StreamLog) -> None:
        super().__init__(target, log)
        self._next = 0  # number of the word that comes back next
        self._part = b""  # the beginning of it

    def begin(self) -> None:
        """A new stream: it begins with the next probe."""
        self._next = self.log.next_sequence
        self._part = b""

    def ask(self, sequence: int) -> None:
        """Send one word."""
        at_ns = time.monotonic_ns()
        if self._send(sequence.to_bytes(WORD_BYTES, "big")):
            self.log.sent(at_ns)

    def take(self, data: bytes, at_ns: int) -> None:
        """Verify what came back."""
        data = self._part + data
        count = len(data) // WORD_BYTES
        words = data[: count * WORD_BYTES]
        if words != struct.pack(f">{count}Q", *range(self._next, self._next + count)):
            self._refuse(words, count, at_ns)
            return
        for sequence in range(self._next, self._next + count):
            self.log.answered(sequence, at_ns)
        self._next += count
        self._part = data[count * WORD_BYTES :]

    def _refuse(self, words: bytes, count: int, at_ns: int) -> None:
        """Say where the stream is wrong, and begin another: after that place nothing of it can be trusted."""
        for number in range(count):
            word = words[number * WORD_BYTES : (number + 1) * WORD_BYTES]
            if word != (self._next + number).to_bytes(WORD_BYTES, "big"):
                self.log.event(at_ns, "corrupt", expected=self._next + number, got=word.hex())
                break
            self.log.answered(self._next + number, at_ns)
        self._break("wrong bytes came back")
