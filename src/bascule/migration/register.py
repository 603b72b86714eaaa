"""The decision register: who has a VM at an epoch, written once. This is the contract; the stores keep it.

Between two plain hosts the register is the destination's journal (`bascule.journal.register`); in a cluster it can be a
store that all hosts reach, by one compare-and-swap. Nothing here knows which. What every store promises, and the
conformance suite in tests/unit/register holds each one to:

1. *Written once.* For one VM and one epoch the first value that became durable stays for ever.
2. *Durable before it is told.* When `decide` returns, a crash of whatever keeps the register does not change it.
3. *One truth.* `decide` returns what is held, which may be another value than the one asked for. All who ask see the
   same, also at the same moment.
4. *`taken` is one move's.* It is told to the move that wrote it; to any other move of that epoch the register reads
   `refused`, since that move can no longer take it.
5. *Asking again is harmless.* After an error it is not known whether the value was written; the same question answers.
6. *It may refuse of itself, never take.* A store may answer a wish for `taken` with `refused` for reasons of its own: a
   later epoch of the VM is known to it, or the host cannot hold the VM. It then holds `refused` from that moment on.
7. *`taken` is never forgotten.* A source that was cut off before it heard of it would run its old copy on any other
   answer, however late it asks. A `refused` may be forgotten once the VM's epoch has passed, and then reads as refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from bascule.migration.model import Decision, Move


@dataclass(frozen=True, slots=True)
class Ballot:
    """What is decided: whether this move takes this VM at this epoch."""

    vm_uuid: str
    epoch: int
    move_id: str

    @classmethod
    def of(cls, move: Move) -> Ballot:
        """Return the ballot of a move."""
        return cls(move.vm_uuid, move.epoch, move.id)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is written for one VM and one epoch, and by which move."""

    value: Decision
    move_id: str

    def told_to(self, move_id: str) -> Decision:
        """What a move learns of it."""
        return self.value if self.move_id == move_id else Decision.REFUSED


class DecisionRegister(Protocol):
    """A store of decisions. Both methods raise `Failed` when it cannot be used; then nothing is known."""

    async def decide(self, ballot: Ballot, value: Decision) -> Decision:
        """Write `value` unless a value is written, and return what the register holds for this ballot."""
        ...

    async def read(self, ballot: Ballot) -> Decision | None:
        """Return what the register holds for this ballot, or None while it is empty."""
        ...


Entries = Mapping[tuple[str, int], Entry]


def settle(entries: Entries, ballot: Ballot, value: Decision) -> tuple[Entries, Decision]:
    """Decide among `entries`, which stay as they are. Return them with what was written, and what the ballot holds."""
    key = (ballot.vm_uuid, ballot.epoch)
    later = any(
        vm == ballot.vm_uuid and epoch > ballot.epoch and entry.value is Decision.TAKEN
        for (vm, epoch), entry in entries.items()
    )
    if key not in entries:
        entries = {**entries, key: Entry(Decision.REFUSED if later else value, ballot.move_id)}
    return entries, entries[key].told_to(ballot.move_id)


class MemoryRegister:
    """A register in memory, for tests and for the explorer. It lasts as long as it is held."""

    def __init__(self) -> None:
        self.entries: Entries = {}

    async def decide(self, ballot: Ballot, value: Decision) -> Decision:
        """Write once; see `DecisionRegister`."""
        self.entries, held = settle(self.entries, ballot, value)
        return held

    async def read(self, ballot: Ballot) -> Decision | None:
        """Read; see `DecisionRegister`."""
        entry = self.entries.get((ballot.vm_uuid, ballot.epoch))
        return entry.told_to(ballot.move_id) if entry is not None else None
