"""The guest's event loop: sockets first, then a little of the work that fills the time between."""

from __future__ import annotations

import select

TYPE_CHECKING = False  # as `typing` has it, which takes too long to import
if TYPE_CHECKING:
    from collections.abc import Callable

_EVENTS_AT_ONCE = 16


class Loop:
    """Calls a handler for each descriptor that is ready, and something else after each turn."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def add(self, descriptor: int, handler: Callable[[int], None]) -> None:
        """Call `handler` with the epoll mask whenever `descriptor` can be read."""
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, select.EPOLLIN)

    def want(self, descriptor: int, mask: int) -> None:
        """Wait for other events on `descriptor` from now on."""
        self._epoll.modify(descriptor, mask)

    def remove(self, descriptor: int) -> None:
        """Forget `descriptor`, which is still open."""
        self._epoll.unregister(descriptor)
        del self._handlers[descriptor]

    def run(self, work: Callable[[bool], float]) -> None:
        """Turn for ever: handle what is ready, then call `work`.

        `work` is told whether anything was ready, and returns how many seconds to wait for the next event; a
        negative number is for ever.
        """
        poll, handlers = self._epoll.poll, self._handlers
        wait_s = 0.0
        while True:
            events = poll(wait_s, _EVENTS_AT_ONCE)
            for descriptor, mask in events:
                # A handler may have removed a descriptor that is ready in the same turn.
                handler = handlers.get(descriptor)
                if handler is not None:
                    handler(mask)
            wait_s = work(bool(events))
