"""Probes beside a move: started before it, and the outage that they saw put into its report.

They run on this host, as processes of their own, from before the move is asked for until its end is known. If the probe
cannot see the VM, the move is not begun: nothing changed.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from bascule.cli.client import AgentClient, url
from bascule.cli.output import say
from bascule.cli.probe_picture import Mark
from bascule.cli.probe_screen import Watch, as_text, leave_picture, live_lines
from bascule.cli.probe_wish import Wish, usual_hz
from bascule.cli.progress import screen_for
from bascule.errors import BasculeError, Refused
from bascule.migration.story import run_s, with_outage
from bascule.network.outage import NS_PER_S, Outage, monotonic_ns_of
from bascule.network.probe.session import ProbeSession
from bascule.report.moments import blackout_span
from bascule.report.record import as_report

MARGIN_NS = 500_000_000  # of the client's time before and after the move that its report shows
CONNECT_TIMEOUT_S = 5.0
STILL = ("saving", "switching-over", "deciding", "unsettled")  # the phases in which no vCPU runs here


@dataclass(frozen=True, slots=True)
class Seen:
    """What one probe saw, when it was not on time itself, (begin, end) in s from the move's start, and the answers
    before and after the VM ran."""

    outage: Outage
    own_gaps: tuple[tuple[float, float], ...]
    around: dict[str, float | None]


class Beside:
    """Probes that run beside a move, the first of which is the report's. Use `begin`."""

    def __init__(self, probes: Sequence[tuple[Wish, ProbeSession]]) -> None:
        self._probes = probes
        self._begin_ns = time.monotonic_ns()
        wish, session = probes[0]
        self.watch = Watch(session.samples(wish.kind).stream)
        self.marks: list[Mark] = []
        self.told: list[Seen] = []

    def wait_before(self) -> None:
        """Wait until there is something to compare the move with."""
        for _, session in self._probes:
            session.wait_recorded(self._begin_ns + MARGIN_NS)
        self.look()

    def look(self) -> Watch:
        """How it stands with the first one, until the move's end is known."""
        wish, session = self._probes[0]
        self.watch.update(session.samples(wish.kind))
        return self.watch

    def told_phase(self, phase: str) -> None:
        """The agent has told the move's phase: note when the VM stood still, as nearly as is known before the end."""
        now_s = (time.monotonic_ns() - self.watch.totals.begun_ns) / NS_PER_S
        if self.marks and self.marks[-1].end_s == math.inf:
            self.marks[-1] = Mark(self.marks[-1].start_s, math.inf if phase in STILL else now_s)
        elif phase in STILL:
            self.marks.append(Mark(now_s, math.inf))

    def seen(self, report: dict[str, Any]) -> list[Seen]:
        """What each saw, from half a second before the move until half a second after its end, which is now.

        Raises:
            Failed: a probe broke.
        """
        end_ns = time.monotonic_ns() + MARGIN_NS
        origin_ns = max(monotonic_ns_of(datetime.fromisoformat(report["started_at"])), self._begin_ns)
        start_ns = origin_ns - MARGIN_NS
        found = []
        for wish, session in self._probes:
            outage = session.outage(wish.kind, start_ns, end_ns, origin_ns=origin_ns)
            gaps = session.samples(wish.kind).own_gaps(start_ns, end_ns)
            in_s = tuple(((begin - origin_ns) / NS_PER_S, (end - origin_ns) / NS_PER_S) for begin, end in gaps)
            ran_s = run_s(report)
            moment_ns = origin_ns + round(ran_s * NS_PER_S) if ran_s is not None else None
            around = session.answers_around(wish.kind, moment_ns, origin_ns) if moment_ns is not None else {}
            found.append(Seen(outage, in_s, around))
        return found

    def outages(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        """What each saw, as it stands in a report; `seen` keeps more of it for this terminal."""
        self.told = self.seen(report)
        return [one.outage.to_dict() | one.around for one in self.told]


class Watcher(Protocol):
    """Whoever watches a move: `Beside` on this host, or `probe_elsewhere.Elsewhere`."""

    def outages(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        """What each of its probes saw of the move that has just ended. Raises BasculeError."""


def tell(watcher: Watcher, client: AgentClient, report: dict[str, Any]) -> None:
    """Put what was seen into `report` and into the agent's record of it; what goes wrong is said, and no more.

    The move has ended, and its outcome and exit status stand whatever becomes of the probe.
    """
    if report.get("outcome") == "refused":  # nothing happened that could be felt
        return
    try:
        first, *others = watcher.outages(report)
        for other in others:
            del other["samples"]
        report.update(with_outage(report, first | {"others": others}))
        client.change(
            "PUT",
            url("moves", str(report["id"]), "outage"),
            report["outage"],
            attempted=f"put the outage into the report of move {report['id']}",
            look=f"see whether it is there with: bascule report {report['id']}",
        )
    except (BasculeError, KeyboardInterrupt) as error:
        why = str(error) or "you did not wait for it"
        say(f"bascule: what the client felt is not in the agent's report: {why}", to=sys.stderr)


@contextmanager
def begin(wishes: Sequence[Wish], address: str, hz: float | None) -> Iterator[Beside]:
    """Start a probe for each wish, of `address` where a wish names none; `hz` None: as usual for its kind.

    Raises:
        Refused: one cannot be asked, or does not answer.
    """
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="bascule-probe-")))
        probes = []
        for number, wish in enumerate(wishes):
            targets: dict[str, Any] = {wish.kind: wish.target(address)}
            session = ProbeSession.start(
                folder / f"{number}", hz=hz or usual_hz(wish.kind), connect_timeout_s=CONNECT_TIMEOUT_S, **targets
            )
            probes.append((wish, opened.enter_context(session)))
        for wish, session in probes:
            session.wait_connected()
            if session.silent:
                raise Refused(
                    f"cannot watch the move: {wish.target(address)} does not answer {wish.kind.upper()}",
                    "look whether it can be reached from this host; name another way or address, as in:"
                    " --probe connect:22 or --probe 10.77.0.50; or move without --probe",
                )
        beside = Beside(probes)
        beside.wait_before()
        yield beside


class WatchedScreen:
    """The move's screen; on a terminal with the client's picture under it, in which it marks the switchover."""

    def __init__(self, beside: Beside, *, as_json: bool) -> None:
        self._beside = beside
        self._screen = screen_for(as_json=as_json, beneath=self._beneath)

    def update(self, progress: dict[str, Any]) -> None:
        """Show one progress record of the agent."""
        self._beside.told_phase(str(progress.get("phase")))
        self._screen.update(progress)

    def note(self, text: str) -> None:
        """Show a sentence that stays on the screen."""
        self._screen.note(text)

    def close(self) -> None:
        """Take away what is not meant to stay. May be called twice."""
        self._screen.close()

    def _beneath(self, width: int, height: int) -> Any:
        watch = self._beside.look()
        return as_text(live_lines(watch, width=width, height=height, marks=self._beside.marks))


def leave(seen: Sequence[Seen], report: dict[str, Any]) -> None:
    """Leave the first one's picture on the terminal, the blackout marked."""
    if not seen or not report.get("outage"):
        return
    first = seen[0]
    dark = blackout_span(as_report(report))
    samples = first.outage.samples or ((0.0, None),)
    leave_picture(
        first.outage,
        first.own_gaps,
        ends=(f"{samples[0][0]:.1f} s", f"{samples[-1][0]:.1f} s from the move's start"),
        marks=[Mark(dark.start_s, dark.end_s)] if dark else None,
    )
