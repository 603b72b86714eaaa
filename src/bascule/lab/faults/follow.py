"""The phase of a move, as the agent of its source tells it, and the wait for one.

A thread looks for a move of the VM until there is one, and then listens to its events. When the agent is gone it comes
back as soon as that answers. What was seen is kept with its time, for the case's story.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from bascule.lab.faults.case import FORWARD
from bascule.lab.faults.urgency import urgent
from bascule.lab.unix_http import NoAnswerError, request

_LOOK_S = 0.004
_SILENCE_S = 1.0


class MoveFollower:
    """Follows the next move of `vm` from the host behind `agent_socket`; a context manager."""

    def __init__(self, agent_socket: Path, vm: str) -> None:
        self._agent = agent_socket
        self._vm = vm
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follow {vm}")
        self.move_id: str | None = None
        self.seen: list[tuple[float, str]] = []
        self.over = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()
        self._thread.join()

    def finish(self) -> None:
        """There is nothing more to come: whoever waits for a phase is told so."""
        self._stop.set()
        with self._changed:
            self.over = True
            self._changed.notify_all()

    def wait(self, phase: str, timeout_s: float) -> bool:
        """Wait until the move is in `phase` or past it. False if that is not to be."""
        with self._changed:
            self._changed.wait_for(lambda: self._reached(phase) or self.over or self._reached("ended"), timeout_s)
            return self._reached(phase)

    @property
    def phase(self) -> str:
        """The last phase that was seen."""
        return self.seen[-1][1] if self.seen else "before"

    def _reached(self, phase: str) -> bool:
        names = {name for _at, name in self.seen}
        if phase in names:
            return True
        if phase not in FORWARD:
            return False
        later = FORWARD[FORWARD.index(phase) + 1 : -1]  # the end comes after anything, and shows nothing
        return any(name in later for name in names)

    def _note(self, phase: str) -> None:
        with self._changed:
            if not self.seen or self.seen[-1][1] != phase:
                self.seen.append((time.time(), phase))
                self._changed.notify_all()

    def _run(self) -> None:
        with urgent():
            self._follow()

    def _follow(self) -> None:
        while not self._stop.is_set():
            if self.move_id is None:
                self._look()
                continue
            with contextlib.suppress(OSError):
                for event, data in self._events(self.move_id):
                    if event == "end" and data.get("outcome") != "unknown":
                        self._note("ended")
                        return
                    if "phase" in data:
                        self._note(data["phase"])
                    if self._stop.is_set():
                        return
            self._stop.wait(_LOOK_S)

    def _look(self) -> None:
        with contextlib.suppress(NoAnswerError):
            status, vm = request(self._agent, "GET", f"/v1/vms/{self._vm}", timeout_s=_SILENCE_S)
            if status == 200 and vm.get("move"):
                self.move_id = vm["move"]
                return
        self._stop.wait(_LOOK_S)

    def _events(self, move_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_SILENCE_S)
            sock.connect(str(self._agent))
            # To be closed: for a moment the agent has the move's id and not yet the move, and says that it has no such.
            ask = f"GET /v1/moves/{move_id}/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            sock.sendall(ask.encode())
            event = ""
            # The framing of the chunks stands on lines of its own, and is none of ours.
            for line in sock.makefile("rb"):
                text = line.decode().strip()
                if text.startswith("event: "):
                    event = text.removeprefix("event: ")
                elif text.startswith("data: "):
                    yield event, json.loads(text.removeprefix("data: "))
