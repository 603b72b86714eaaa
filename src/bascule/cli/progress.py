"""The progress of a move: a live bar on a terminal, one line per change elsewhere.

Both screens take the agent's progress records and short notes. `rich` is imported only for a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from bascule.cli.output import CONTROLS, say, size_text

if TYPE_CHECKING:
    from rich.console import RenderableType

Beneath = Callable[[int, int], "RenderableType"]
"""What else a live screen shows, drawn for so many columns and lines."""


class Screen(Protocol):
    """Where a move's progress is shown."""

    def update(self, progress: dict[str, Any]) -> None:
        """Show one progress record of the agent."""

    def note(self, text: str) -> None:
        """Show a sentence that stays on the screen."""

    def close(self) -> None:
        """Take away what is not meant to stay. May be called twice."""


class PlainScreen:
    """One line for each change of phase or round."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: tuple[object, object] | None = None

    def update(self, progress: dict[str, Any]) -> None:
        """Write a line if the phase or the round is another than before."""
        current = (progress.get("phase"), progress.get("round"))
        if current != self._last:
            self._last = current
            say(f"{progress.get('at_s') or 0.0:8.2f} s  {describe(progress)}", to=self._stream)

    def note(self, text: str) -> None:
        """Write the sentence as a line of its own."""
        say(text, to=self._stream)

    def close(self) -> None:
        """Do nothing: every line stays."""


class QuietScreen:
    """Shows nothing: for programs that read JSON."""

    def update(self, progress: dict[str, Any]) -> None:
        """Ignore the record."""

    def note(self, text: str) -> None:
        """Ignore the sentence."""

    def close(self) -> None:
        """Do nothing."""


class LiveScreen:
    """A bar of the memory that is still to be copied, redrawn in place, with the figures beside it."""

    def __init__(self, stream: TextIO, beneath: Beneath | None = None) -> None:
        from rich.console import Console  # noqa: PLC0415 - slow to import, needed on terminals only
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn  # noqa: PLC0415

        self._console = console = Console(file=stream, highlight=False)

        class WithBeneath(Progress):
            def get_renderables(self) -> Iterator[RenderableType]:
                yield from super().get_renderables()
                if beneath is not None:
                    width, height = console.size
                    yield beneath(width - 1, height - 2)

        self._progress = WithBeneath(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
        )
        self._task = self._progress.add_task("waiting for the agent", total=None)
        self._last_phase: object = None
        self._progress.start()

    def update(self, progress: dict[str, Any]) -> None:
        """Redraw the bar: full means that nothing remains to be copied."""
        total = progress.get("total_bytes") or None
        done = None if total is None else max(0, total - (progress.get("remaining_bytes") or 0))
        text = f"{progress.get('at_s') or 0.0:.1f} s  {describe(progress)}".translate(CONTROLS)
        self._progress.update(self._task, total=total, completed=done, description=text)

    def note(self, text: str) -> None:
        """Print the sentence above the bar."""
        self._console.print(text.translate(CONTROLS), markup=False)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def screen_for(*, as_json: bool, beneath: Beneath | None = None) -> Screen:
    """Choose the screen: stdout belongs to the report when that is JSON, so progress goes to stderr then.

    Programs that ask for JSON and whose stderr is no terminal get no progress, so that stderr holds nothing
    but a possible error object.
    """
    stream = sys.stderr if as_json else sys.stdout
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return LiveScreen(stream, beneath)
    return QuietScreen() if as_json and not stream.isatty() else PlainScreen(stream)


def describe(progress: dict[str, Any]) -> str:
    """Return one line about a progress record: the phase, and the copy's figures or the agent's message."""
    phase = str(progress.get("phase", "?"))
    parts = []
    if progress.get("round") and phase == "copying":
        parts.append(f"round {progress['round']}")
        parts.append(f"{size_text(progress.get('remaining_bytes') or 0)} left")
        if progress.get("rate_bytes_per_s"):
            parts.append(f"{size_text(progress['rate_bytes_per_s'])}/s")
        if progress.get("forecast_blackout_ms") is not None:
            parts.append(f"blackout forecast {progress['forecast_blackout_ms']:.0f} ms")
    elif progress.get("message"):
        parts.append(str(progress["message"]))
    return f"{phase}: {', '.join(parts)}" if parts else phase
