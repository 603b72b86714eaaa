"""Reads HTTP/1.1 answers as they trickle in: just as much as a probe that asks for one page needs.

A full parser costs several times a probe's whole work, a thousand times a second, on a machine that is to be
left to the VMs.
"""

from __future__ import annotations

_LARGEST_HEAD_BYTES = 1 << 16
_CHUNKED = -1
_FIRST_FINAL_STATUS = 200  # those before it announce another answer, and have no body
_WITHOUT_BODY = (204, 304)


class NotHttpError(Exception):
    """The other side does not speak HTTP/1.1, or its answer has no end that could be seen."""


class AnswerReader:
    """Finds the ends of answers in a stream of bytes; each must have a length or be chunked (RFC 9112 section 6)."""

    def __init__(self) -> None:
        self._data = b""
        self._status = 0
        self._left: int | None = None  # bytes of the body to come; None: the head is not whole yet

    def feed(self, data: bytes) -> list[int]:
        """Take in `data` and return the status codes of the answers that it completes. Raises `NotHttpError`."""
        self._data += data
        done: list[int] = []
        while True:
            if self._left is None and not self._take_head():
                return done
            if not (self._take_chunks() if self._left == _CHUNKED else self._take_body()):
                return done
            if self._status >= _FIRST_FINAL_STATUS:
                done.append(self._status)
            self._left = None

    def _take_head(self) -> bool:
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            if len(head) > _LARGEST_HEAD_BYTES:
                raise NotHttpError("its head has no end")
            return False
        first, *lines = head.split(b"\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        try:
            version, code = first.split()[:2]
            self._status = int(code)
            if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
                self._left = _CHUNKED
            elif self._status < _FIRST_FINAL_STATUS or self._status in _WITHOUT_BODY:
                self._left = 0
            else:
                self._left = _length(fields[b"content-length"])
        except (ValueError, KeyError):
            raise NotHttpError(f"its answer begins with {head[:60]!r} and says no length") from None
        if not version.startswith(b"HTTP/1."):
            raise NotHttpError(f"its answer begins with {head[:60]!r}")
        self._data = rest
        return True

    def _take_body(self) -> bool:
        taken = min(self._left or 0, len(self._data))
        self._left = (self._left or 0) - taken
        self._data = self._data[taken:]
        return self._left == 0

    def _take_chunks(self) -> bool:
        while True:
            line, end, rest = self._data.partition(b"\r\n")
            if not end:
                return False
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError:
                raise NotHttpError(f"it sent a chunk with the length {line[:20]!r}") from None
            if size == 0:
                return self._take_trailer(rest)
            if len(rest) < size + 2:
                return False
            self._data = rest[size + 2 :]

    def _take_trailer(self, rest: bytes) -> bool:
        while True:
            line, end, rest = rest.partition(b"\r\n")
            if not end:
                return False
            if not line:
                self._data = rest
                return True


def _length(digits: bytes) -> int:
    if not digits.isdigit():
        raise ValueError(f"no length: {digits!r}")
    return int(digits)
