"""What was seen of one case, before anybody judges it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bascule.lab.faults.case import Case, Side
from bascule.lab.faults.injection import Hit
from bascule.lab.faults.qemu_watch import WatchedQemu
from bascule.lab.guest_sequence import SequenceReport


@dataclass(frozen=True, slots=True)
class Word:
    """What one agent says once everything has settled: the VM's state there, and its record of the move."""

    state: str  # as `bascule vm list` has it, or `absent`
    record: Mapping[str, Any] | None  # of the case's move, as `bascule moves` has it
    facts: tuple[Mapping[str, Any], ...] = ()
    report: Mapping[str, Any] | None = None  # on the source, if it has one
    status: str = ""  # the first sentence of `bascule status`; empty where the VM was never heard of

    @property
    def phase(self) -> str:
        """Where its side of the move stands; `ended` if it has no such move."""
        return str((self.record or {}).get("phase", "ended"))

    def has(self, fact: str) -> bool:
        """Whether the journal holds a fact of that kind."""
        return any(each["name"] == fact for each in self.facts)


@dataclass(slots=True)
class Evidence:
    """One case. Times in s since the epoch."""

    case: Case
    hosts: Mapping[Side, str]
    began_s: float
    boot_before: str
    exit_status: int | None = None  # of the command; None if it was killed with its host
    said: str = ""
    move_id: str | None = None
    hits: tuple[Hit, ...] = ()
    story: list[tuple[float, str]] = field(default_factory=list)
    ended_s: float = 0.0
    settled: bool = False
    words: dict[Side, Word] = field(default_factory=dict)
    qemus: Sequence[WatchedQemu] = ()
    running: tuple[Side, ...] = ()  # where a copy ran once everything had settled, by QEMU's own word
    forks: Sequence[str] = ()
    disk: SequenceReport | None = None
    guest: Mapping[str, Any] | None = None  # what the guest says of itself; None if it does not answer
    leftovers: Sequence[str] = ()
    excuse: str = ""  # why no copy runs, if none has to
    held: bool = False  # the outcome is rightly unknown: only an operator can decide
    started_again: bool = (
        False  # by its operator: the words are of before that as to the VM, of after it as to the move
    )
    next_move: str = ""  # what went wrong with it, if anything

    def side_of(self, host: str) -> Side:
        """Return the side of a host."""
        return next(side for side, name in self.hosts.items() if name == host)
