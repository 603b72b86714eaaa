"""An operator's word for one host against another, which is told to the other until it has stood down.

The host that an operator chose owns the VM at an epoch later than that of the move that was not settled, and notes that
in its journal together with a *claim*. The claim is told to the other host's agent every few seconds until it answers.
Whoever hears of a claim that is later than what its own journal says writes that down, which shuts its gate, and only
then ends its copy: running, paused or coming in. So two copies that run because a confirmation was wrong become one as
soon as the two agents hear of each other.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import structlog

from bascule.agent.host import Host
from bascule.agent.peers import NoAnswerError
from bascule.agent.tasks import TaskKeeper
from bascule.errors import BasculeError, Unknown
from bascule.journal.records import Claim, VmRecord
from bascule.migration.model import Decision, Move
from bascule.migration.ownership import BY_WORD_EPOCHS

AGAIN_S = 3.0
AGAIN_AT_MOST_S = 30.0


class Claims:
    """The claims of this host, and its standing down for those of others."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tasks = TaskKeeper("claims")
        self._new = asyncio.Event()
        self._log = structlog.get_logger()

    def open(self) -> None:
        """Begin to tell the claims that earlier agents of this host have left."""
        self._tasks.spawn(self._tell_all(), "tell the other hosts")

    async def close(self) -> None:
        """Stop telling; the next agent goes on with it."""
        await self._tasks.close()

    async def override(self, move: Move, peer: str, *, against: str, taken: VmRecord | None = None) -> Decision:
        """Write that an operator gave the VM of an unsettled move to this host; see `custody.override`."""
        reason = f"an operator let vm {move.vm} run on {self._host.name} while {against} was said to be down"
        epoch = move.epoch + BY_WORD_EPOCHS
        at = datetime.now(UTC).isoformat(timespec="seconds")
        claim = Claim(move.vm_uuid, self._host.name, epoch, against, peer, move.id, reason, at)
        held = await self._host.journal.override(claim, taken)
        self._new.set()
        return held

    async def of_move(self, move_id: str) -> dict[str, Any] | None:
        """Return the claim that settled a move, if there is one of which the other host has not heard."""
        return next((asdict(claim) for claim in await self._host.journal.claims() if claim.move_id == move_id), None)

    async def stand_down(self, claim: Claim) -> dict[str, Any]:
        """Another host claims a VM: give up the copy here, unless this host knows better. Return what it knows."""
        host = self._host
        accepted = await host.journal.stand_down(claim)
        record = await host.journal.vm_by_uuid(claim.vm_uuid)
        if accepted:
            self._log.warning("standing down", vm_uuid=claim.vm_uuid, owner=claim.owner, reason=claim.reason)
            await self._end_copies(claim)
        owner, epoch = (record.owner, record.epoch) if record is not None else (claim.owner, claim.epoch)
        return {"accepted": accepted, "owner": owner, "epoch": epoch}

    async def _end_copies(self, claim: Claim) -> None:
        """End what there is of the VM here. The journal has it that it is another host's, so nothing runs again."""
        vm = self._host.machines.get(claim.vm_uuid)
        if vm is not None:
            try:
                await vm.machine.kill()  # no orderly end: it would write to a disk that is another's
            except Unknown as error:
                self._log.error("a copy that has to stand down cannot be ended", vm=vm.definition.name, why=str(error))
        if not self._host.moves.stand_down(claim) and vm is not None:
            await self._host.machines.destroy(vm)

    async def _tell_all(self) -> None:
        wait_s = AGAIN_S
        while True:
            self._new.clear()
            left = False
            for claim in await self._claims():
                left = not await self._told(claim) or left
            wait_s = min(wait_s * 1.5, AGAIN_AT_MOST_S) if left else AGAIN_S
            try:
                async with asyncio.timeout(wait_s if left else None):
                    await self._new.wait()
                    wait_s = AGAIN_S
            except TimeoutError:
                continue

    async def _claims(self) -> list[Claim]:
        try:
            return await self._host.journal.claims()
        except BasculeError as error:
            self._log.error("claims cannot be read", error=str(error))
            return []

    async def _told(self, claim: Claim) -> bool:
        """Tell a claim. Return whether it is done with."""
        try:
            answer = await self._host.peers.ask(claim.peer, "PUT", "/v1/peer/claims", asdict(claim), deadline_s=15)
            if not answer["accepted"] and answer["epoch"] <= claim.epoch:
                self._log.error("two operators gave one VM to two hosts", vm_uuid=claim.vm_uuid, other=claim.against)
                return False
            await self._host.journal.claim_heard(claim)
        except (NoAnswerError, BasculeError) as error:
            self._log.debug("claim not heard yet", vm_uuid=claim.vm_uuid, error=str(error))
            return False
        self._log.info("the other host has heard of the claim", vm_uuid=claim.vm_uuid, other=claim.against)
        return True
