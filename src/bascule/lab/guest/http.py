"""The guest's HTTP/1.1 server: keep-alive, pages by exact method and path, no bodies in requests."""

from __future__ import annotations

import _socket

from bascule.lab.guest.loop import Loop
from bascule.lab.guest.sockets import Connection, Counters

TYPE_CHECKING = False  # as `typing` has it, which takes too long to import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HTTP_PORT = 80
_HEAD_LIMIT_BYTES = 16384
_PAGE = '<!doctype html><title>bascule guest</title><p>Still here. <a href="/status">How am I doing?</a></p>\n'


def response(status: str, body: str, content_type: str) -> bytes:
    """A whole HTTP/1.1 response; `body` is ASCII."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode("ascii")


_HOME = response("200 OK", _PAGE, "text/html")
_NOT_FOUND = response("404 Not Found", "no such page\n", "text/plain")
_TOO_LONG = response("431 Request Header Fields Too Large", "", "text/plain")


class HttpConnection(Connection):
    """Answers requests one after the other, until the client closes or asks for the end.

    `pages` maps "GET /status" and the like to a function that returns a whole response.
    """

    def __init__(
        self, loop: Loop, sock: _socket.socket, counters: Counters, pages: Mapping[bytes, Callable[[], bytes]]
    ) -> None:
        super().__init__(loop, sock, counters)
        self._pages = pages
        self._partial = b""
        self._home_request = b""

    def received(self, data: memoryview) -> None:
        """Answer every request that is complete."""
        text = bytes(data)
        if text == self._home_request:
            # A client that asks for the same again and again need not be parsed.
            self.counters.http_requests += 1
            self.send(_HOME)
            return
        *heads, self._partial = (self._partial + text).split(b"\r\n\r\n")
        if len(self._partial) > _HEAD_LIMIT_BYTES:
            self.send_and_close(_TOO_LONG)
        elif heads:
            answers = b"".join([self._answer(head) for head in heads])
            if _wants_end(heads[-1]):
                self.send_and_close(answers)
                return
            self.send(answers)
            if answers == _HOME and text.endswith(b"\r\n\r\n"):
                self._home_request = text

    def _answer(self, head: bytes) -> bytes:
        self.counters.http_requests += 1
        if head.startswith(b"GET / "):
            return _HOME
        page = self._pages.get(head[: head.find(b" HTTP/")])
        return page() if page is not None else _NOT_FOUND


def _wants_end(head: bytes) -> bool:
    """Whether the client wants the connection closed after this request."""
    return b"onnection: close" in head or b" HTTP/1.0\r\n" in head + b"\r\n"
