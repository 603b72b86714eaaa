"""Where a probe's figures go while it asks: a picture that scrolls on a terminal, a line a second elsewhere.

`rich` is imported only for a terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bascule.cli.output import CONTROLS, say
from bascule.cli.probe_picture import Line, Mark, dots_in, picture
from bascule.network.probe.columns import Columns, columns_of
from bascule.network.probe.samples import Samples, StreamInfo
from bascule.network.probe.totals import Totals
from bascule.report.words import counted, frequency, milliseconds, seconds, short_time

if TYPE_CHECKING:
    from rich.text import Text

    from bascule.network.outage import Outage

STRETCH_S = 0.1  # of one column of dots
ROWS = 6
LIVE_EVERY_S = 0.2
PLAIN_EVERY_S = 1.0
SILENT_WORTH_TELLING_MS = 300.0
WIDEST = 160
WIDEST_LEFT = 100  # of the picture that stays
NARROWEST = 50  # where not even this fits, a line must do
PICTURE_LINES = ROWS + 9


class Watch:
    """What a screen shows of one stream: figures added up, and the newest stretches of time."""

    def __init__(self, info: StreamInfo) -> None:
        self.info = info
        self.totals = Totals()
        self.columns = Columns(STRETCH_S, dots_in(WIDEST))

    def update(self, samples: Samples) -> None:
        """Take in what has been recorded since the last time."""
        self.totals.add(samples)
        self.columns.update(samples)

    @property
    def has_begun(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.totals.until_ns) or self.totals.silent_ms > SILENT_WORTH_TELLING_MS


class Screen(Protocol):
    """Where the figures go, and how often."""

    every_s: float

    def show(self, watch: Watch) -> None:
        """Show how it stands."""

    def note(self, text: str) -> None:
        """Show a sentence that stays."""

    def close(self) -> None:
        """Take away what is not meant to stay."""


class QuietScreen:
    """Shows nothing: for programs that read JSON."""

    every_s = PLAIN_EVERY_S

    def show(self, watch: Watch) -> None:
        """Ignore the figures."""

    def note(self, text: str) -> None:
        """Ignore the sentence."""

    def close(self) -> None:
        """Do nothing."""


class PlainScreen:
    """A line a second."""

    every_s = PLAIN_EVERY_S

    def show(self, watch: Watch) -> None:
        """Write the line."""
        say(one_line(watch.totals))

    def note(self, text: str) -> None:
        """Write the sentence."""
        say(text)

    def close(self) -> None:
        """Do nothing."""


class LiveScreen:
    """The picture and the figures, redrawn in place."""

    every_s = LIVE_EVERY_S

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - slow to import, needed on terminals only
        from rich.live import Live  # noqa: PLC0415

        self._console = Console(highlight=False)
        self._live = Live(console=self._console, transient=True, auto_refresh=False)
        self._live.start()

    def show(self, watch: Watch) -> None:
        """Redraw."""
        width, height = self._console.size
        self._live.update(as_text(live_lines(watch, width=width - 1, height=height)), refresh=True)

    def note(self, text: str) -> None:
        """Print the sentence above the picture."""
        self._console.print(text.translate(CONTROLS), markup=False)

    def close(self) -> None:
        """Take the picture away."""
        self._live.stop()


def screen_for(*, quiet: bool) -> Screen:
    """Choose the screen."""
    if quiet:
        return QuietScreen()
    return LiveScreen() if can_draw(sys.stdout) else PlainScreen()


def can_draw(stream: Any) -> bool:
    """Whether `stream` is a terminal that shows braille and can be redrawn."""
    encoding = (getattr(stream, "encoding", None) or "").lower().replace("-", "")
    return bool(stream.isatty()) and os.environ.get("TERM", "dumb") != "dumb" and encoding == "utf8"


def leave_picture(
    outage: Outage,
    own_gaps: Sequence[tuple[float, float]],
    *,
    ends: tuple[str, str],
    marks: Sequence[Mark] | None = None,
) -> None:
    """Leave a picture of all round trips on the terminal; elsewhere do nothing.

    `own_gaps` are (begin, end) in s, on the clock of the outage's samples, and so are `marks`.
    """
    if not can_draw(sys.stdout) or not outage.samples:
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, needed on terminals only

    console = Console(highlight=False)
    width = min(console.width - 1, WIDEST_LEFT)
    start_s, end_s = outage.samples[0][0], outage.samples[-1][0]
    if width < NARROWEST or end_s <= start_s:
        return
    count = dots_in(width)
    lines = picture(
        columns_of(outage.samples, own_gaps, start_s=start_s, end_s=end_s, count=count),
        width=width,
        rows=ROWS,
        length_s=(end_s - start_s) / count,
        marks=marks,
        ends=ends,
    )
    console.print(as_text(lines))


def one_line(totals: Totals) -> str:
    """All that matters in one line."""
    now = "" if totals.rtt_median_ms is None else f", round trip now {short_time(totals.rtt_median_ms)}"
    silent = f", SILENT for {milliseconds(totals.silent_ms)}" if totals.silent_ms > SILENT_WORTH_TELLING_MS else ""
    return (
        f"{totals.duration_s:6.1f} s  sent {totals.sent:,}, lost {totals.lost:,}, duplicated {totals.duplicated:,},"
        f" reordered {totals.reordered:,}, longest silence {milliseconds(totals.longest_silence_ms)}{now}{silent}"
    )


def live_lines(watch: Watch, *, width: int, height: int, marks: Sequence[Mark] | None = None) -> list[Line]:
    """The picture with its figures; only those that matter most where there is no room for them."""
    totals, width = watch.totals, min(width, WIDEST)
    if width < NARROWEST or height <= PICTURE_LINES:
        return _few_figures(totals)[: max(1, height - 1)]
    shown_s = STRETCH_S * dots_in(width)
    head = f"{watch.info.name} to {watch.info.target} at {frequency(watch.info.hz)} for {seconds(totals.duration_s)}"
    drawn = picture(
        watch.columns.newest,
        width=width,
        rows=ROWS,
        length_s=STRETCH_S,
        marks=marks,
        ends=(f"{seconds(shown_s)} ago", "now"),
    )
    return [[(head, "bold")], *drawn, *_figures(totals)]


def _few_figures(totals: Totals) -> list[Line]:
    """What fits into a corner, the weightiest first."""
    lines: list[Line] = [
        [(f"lost {totals.lost:,}", "bold red" if totals.lost else ""), (f" of {totals.sent:,}", "")],
        [(f"longest silence {milliseconds(totals.longest_silence_ms)}", "")],
        [(f"duplicated {totals.duplicated:,}, reordered {totals.reordered:,}", "")],
        [(f"round trip now {short_time(totals.rtt_median_ms)}", "")],
    ]
    if totals.silent_ms > SILENT_WORTH_TELLING_MS:
        lines[3] = [(f"SILENT for {milliseconds(totals.silent_ms)}", "bold red")]
    if totals.own_gaps:
        lines.append([(f"own gaps {milliseconds(totals.own_gap_total_ms)}", "yellow")])
    return lines


def _figures(totals: Totals) -> list[Line]:
    lost = f"lost {totals.lost:,}"
    trips = ", ".join(
        f"{name} {short_time(value)}"
        for name, value in (
            ("50 %", totals.percentile_ms(0.5)),
            ("90 %", totals.percentile_ms(0.9)),
            ("99 %", totals.percentile_ms(0.99)),
            ("99.9 %", totals.percentile_ms(0.999)),
            ("longest", totals.rtt_max_ms),
        )
        if value is not None
    )
    silence: Line = [
        (f"longest silence {milliseconds(totals.longest_silence_ms)}, at {totals.silence_start_s:.3f} s", "")
    ]
    if totals.silent_ms > SILENT_WORTH_TELLING_MS:
        silence.append((f"   SILENT for {milliseconds(totals.silent_ms)}", "bold red"))
    own = "the probe itself was always on time"
    if totals.own_gaps:
        own = (
            f"the probe itself slept {milliseconds(totals.own_gap_total_ms)} in {counted(totals.own_gaps, 'gap')},"
            f" longest {milliseconds(totals.own_gap_longest_ms)} at {totals.own_gap_longest_start_s:.3f} s"
        )
    return [
        [
            (f"sent {totals.sent:,}, ", ""),
            (lost, "bold red" if totals.lost else ""),
            (f", duplicated {totals.duplicated:,}, reordered {totals.reordered:,}", ""),
        ],
        [(f"round trips {trips}" if trips else "no answer yet", "")],
        silence,
        [(own, "yellow" if totals.own_gaps else "dim")],
    ]


def as_text(lines: Sequence[Line]) -> Text:
    """The lines as rich shows them; none is wrapped."""
    from rich.text import Text  # noqa: PLC0415 - loaded by now

    text = Text(no_wrap=True, overflow="ellipsis")
    for number, line in enumerate(lines):
        if number:
            text.append("\n")
        for part, style in line:
            text.append(part.translate(CONTROLS), style)
    return text
