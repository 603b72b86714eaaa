"""One case: a move, and the faults that meet it, as a value and as a line of text.

    live: kill agent@source switching-over+3.5 for 1000; freeze qemu@destination copying+120 for 2000
    quick: cut link@destination saving+40 for 3000; cancel move@source saving+10

The number after the phase is in ms since the phase was seen; the one after `for` is how long it lasts, in ms.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from bascule.errors import Refused
from bascule.migration.model import Mode


class Kind(StrEnum):
    """What is done."""

    KILL = "kill"  # SIGKILL; an agent is started again afterwards, as its supervisor would
    FREEZE = "freeze"  # SIGSTOP, and SIGCONT afterwards
    CUT = "cut"  # the cable is pulled out: both ends see it
    BLACK_HOLE = "black-hole"  # frames are dropped, and nobody is told
    CANCEL = "cancel"  # no fault, but a user's wish that meets them


class Target(StrEnum):
    """To what it is done."""

    QEMU = "qemu"
    AGENT = "agent"
    BOTH = "both"  # QEMU and agent in the same instant
    HOST = "host"  # every process of the host in the same instant; a killed one has no link meanwhile
    LINK = "link"
    MOVE = "move"


class Side(StrEnum):
    """On which side of the move."""

    SOURCE = "source"
    DESTINATION = "destination"


FORWARD = ("checking", "preparing", "offering", "copying", "saving", "switching-over", "deciding", "releasing", "ended")
BACK = ("cancelling", "withdrawing", "resuming", "unsettled")
RECOVERY = "recovery"  # an agent that was killed is being started again
PHASES = (*FORWARD, *BACK, RECOVERY)
PHASES_OF = {
    Mode.LIVE: tuple(phase for phase in FORWARD if phase != "saving"),
    Mode.QUICK: tuple(phase for phase in FORWARD if phase not in ("copying", "switching-over")),
}

_FAULT = re.compile(
    r"(?P<kind>[a-z-]+) (?P<target>[a-z]+)@(?P<side>[a-z]+) (?P<phase>[a-z-]+)\+(?P<offset>[0-9.]+)"
    r"(?: for (?P<lasts>[0-9]+))?"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `offset_ms` after `phase` was reached, for `lasts_ms`."""

    kind: Kind
    target: Target
    side: Side
    phase: str
    offset_ms: float
    lasts_ms: int = 0

    @property
    def is_final(self) -> bool:
        """Whether there is nothing to undo."""
        return self.kind is Kind.CANCEL or (self.kind is Kind.KILL and self.target is Target.QEMU)

    def __str__(self) -> str:
        lasts = f" for {self.lasts_ms}" if self.lasts_ms else ""
        return f"{self.kind} {self.target}@{self.side} {self.phase}+{self.offset_ms:g}{lasts}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read what `str` wrote. Raises `Refused`."""
        found = _FAULT.fullmatch(text.strip())
        known = found is not None and found["kind"] in set(Kind) and found["phase"] in PHASES
        if found is None or not known or found["target"] not in set(Target) or found["side"] not in set(Side):
            raise Refused(
                f"{text.strip()!r} is no fault",
                "write one as in: kill agent@source switching-over+3.5 for 1000; phases: " + ", ".join(PHASES),
            )
        kind, target, side = Kind(found["kind"]), Target(found["target"]), Side(found["side"])
        return cls(kind, target, side, found["phase"], float(found["offset"]), int(found["lasts"] or 0))


@dataclass(frozen=True, slots=True)
class Case:
    """A move and its faults; `name` says where it comes from, as in `seed 7 case 12`."""

    mode: Mode
    faults: tuple[Fault, ...]
    name: str = "by hand"

    def __str__(self) -> str:
        return f"{self.mode}: " + "; ".join(map(str, self.faults))

    @classmethod
    def parse(cls, text: str, name: str = "by hand") -> Case:
        """Read what `str` wrote. Raises `Refused`."""
        mode, colon, faults = text.partition(":")
        if not colon or mode.strip() not in set(Mode):
            raise Refused(f"{text!r} is no case", "begin it with live: or quick:")
        return cls(Mode(mode.strip()), tuple(Fault.parse(part) for part in faults.split(";") if part.strip()), name)
