"""Watch one move to its true end, whatever happens to the connection or to the user's patience.

Three things can happen at any moment: the agent says something, the connection breaks, the user presses
Ctrl-C. All of them arrive in one queue, and one loop in the main thread takes them one by one:

    reader thread ── Progressed, Ended, Lost, GaveUp ──┐
    SIGINT handler ── Interrupted ─────────────────────┼─> queue ─> Follower.wait() ─> report
    canceller thread ── Noted ─────────────────────────┘

The first Ctrl-C asks the agent to cancel and goes on waiting, because only the end tells what happened. The
second leaves: the move goes on without us, so that is `Unknown`, with how to look.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from queue import SimpleQueue
from types import FrameType, TracebackType
from typing import Any, Self, assert_never

from bascule.cli.client import AgentClient, NoAgent, StreamLost, url
from bascule.cli.progress import Screen
from bascule.errors import BasculeError, Refused, Unknown

SILENCE_S = 15.0  # a stream silent for so long is opened anew: the agent then repeats the current state
RETRY_S = 0.5
CANCEL_TIMEOUT_S = 20.0
EXIT_STATUS = {"completed": 0, "refused": 1, "failed": 3, "cancelled": 3}  # anything else: 4, unknown


@dataclass(frozen=True, slots=True)
class Progressed:
    """The agent reported how far the move is."""

    progress: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """The agent reported the move's end."""

    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection broke; the reader tries to connect again."""

    why: str


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The reader has stopped trying."""

    error: BasculeError


@dataclass(frozen=True, slots=True)
class Noted:
    """Something to tell the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The user pressed Ctrl-C for the first time."""


Item = Progressed | Ended | Lost | GaveUp | Noted | Interrupted


class Follower:
    """Follows a move; a context manager.

    For a move that the same command asks for (`ours`) it owns Ctrl-C: enter it before the move is asked for,
    so that a Ctrl-C during the checks cancels the move as soon as it has an id. For a move that is only looked
    at, Ctrl-C raises `KeyboardInterrupt` as everywhere.
    """

    def __init__(self, client: AgentClient, screen: Screen, *, ours: bool, patience_s: float) -> None:
        self._client = client
        self._screen = screen
        self._ours = ours
        self._patience_s = patience_s
        self._items: SimpleQueue[Item] = SimpleQueue()
        self._stop = threading.Event()
        self._previous_handler: Any = None

    def __enter__(self) -> Self:
        # A command started with `nohup` or from a script with `&` ignores SIGINT: that stays so.
        if self._ours and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._previous_handler = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
        self._screen.close()

    def wait(self, move_id: str) -> dict[str, Any]:
        """Show the move's progress and return its report.

        Raises `Unknown` when the agent stays away for longer than the patience allows or when the user leaves
        a move that is ours, and `Refused` when the agent knows no such move.
        """
        threading.Thread(target=self._read, args=(move_id,), name=f"move {move_id}", daemon=True).start()
        try:
            while True:
                match self._items.get():
                    case Progressed(progress):
                        self._screen.update(progress)
                    case Ended(report):
                        return report
                    case Lost(why):
                        self._screen.note(f"lost the agent ({why}); connecting again")
                    case GaveUp(error):
                        raise self._given_up(error, move_id)
                    case Noted(text):
                        self._screen.note(text)
                    case Interrupted():
                        self._screen.note("cancelling the move; press Ctrl-C again to leave without waiting")
                        threading.Thread(
                            target=self._cancel, args=(move_id,), name=f"cancel {move_id}", daemon=True
                        ).start()
                    case unreachable:
                        assert_never(unreachable)
        except KeyboardInterrupt:
            if not self._ours:
                raise
            raise Unknown(f"you left before the end of move {move_id}: it goes on", how_to_look(move_id)) from None

    def _given_up(self, error: BasculeError, move_id: str) -> BasculeError:
        """A move of ours that the agent does not know any more was begun: "nothing changed" would be a lie."""
        if self._ours and isinstance(error, Refused):
            return Unknown(error.message, how_to_look(move_id))
        return error

    def _on_interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        self._items.put(Interrupted())
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _read(self, move_id: str) -> None:
        """Put what the agent says into the queue; connect again until the patience is at its end."""
        last_heard_s = time.monotonic()
        told = False  # one note a loss, not one a try
        while not self._stop.is_set():
            try:
                silence_s = min(SILENCE_S, self._patience_s)
                for event in self._client.events(url("moves", move_id, "events"), timeout_s=silence_s):
                    last_heard_s, told = time.monotonic(), False
                    if event.name == "end":
                        self._items.put(Ended(event.data))
                        return
                    if event.name == "progress":
                        self._items.put(Progressed(event.data))
                why = "the agent closed the connection"
            except StreamLost as error:
                why = str(error)
            except NoAgent as error:
                why = error.message
            except Refused as error:  # it answers, and knows no such move: no use in asking again
                self._items.put(GaveUp(error))
                return
            except BasculeError as error:  # it answers, but is not ready yet
                why = error.message
            if time.monotonic() - last_heard_s > self._patience_s:
                message = f"the agent stayed away for {self._patience_s:g} s while move {move_id} was going on: {why}"
                self._items.put(GaveUp(Unknown(message, how_to_look(move_id))))
                return
            if not told:
                self._items.put(Lost(why))
                told = True
            self._stop.wait(RETRY_S)

    def _cancel(self, move_id: str) -> None:
        try:
            answer = self._client.change(
                "POST",
                url("moves", move_id, "cancel"),
                attempted=f"cancel move {move_id}",
                look=how_to_look(move_id),
                timeout_s=CANCEL_TIMEOUT_S,
            )
        except BasculeError as error:
            self._items.put(Noted(f"could not cancel: {error.message}"))
        else:
            self._items.put(Noted(str(answer.get("message") or "the agent took the request to cancel")))


def how_to_look(move_id: str) -> str:
    """Return the remedy for a move whose end is not known here."""
    return (
        f"look with: bascule moves {move_id}   (or wait for its end with: bascule moves {move_id} --follow;"
        " what is known of the VMs: bascule status)"
    )


def exit_status(outcome: object) -> int:
    """Return the exit status that stands for a move's outcome."""
    return EXIT_STATUS.get(str(outcome), Unknown.exit_status)
