"""The decision register of two plain hosts: the destination's journal."""

from __future__ import annotations

from bascule.journal.journal import Journal
from bascule.journal.records import VmRecord
from bascule.migration.model import Decision
from bascule.migration.register import Ballot


class JournalRegister:
    """Keeps `migration.register.DecisionRegister`: a durable write answers, and `taken` makes this host the owner.

    `taken` is this host's record of the VM in case it is taken. Without it the register can only be refused.
    """

    def __init__(self, journal: Journal, taken: VmRecord | None = None) -> None:
        self._journal = journal
        self.taken = taken

    async def decide(self, ballot: Ballot, value: Decision) -> Decision:
        """Write once; the register and the ownership change in one transaction."""
        return await self._journal.decide(ballot, value, self.taken)

    async def read(self, ballot: Ballot) -> Decision | None:
        """Read; see `DecisionRegister`."""
        return await self._journal.decision(ballot)
