"""What QEMU on the destination says of the copy that comes in, as facts for the engine.

Its events tell it as it happens. They are missed while nobody listens, and a QEMU that does not answer may have loaded
everything meanwhile and be the last copy of its VM: that it is silent is told as nothing, and it is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from bascule.agent.quick import load_state
from bascule.errors import Unknown
from bascule.migration import facts
from bascule.migration.model import Move
from bascule.qemu.migration_control import MigrationControl

AGAIN_S = 1.0
LOOK_S = 5.0  # as long as QEMU may take to load what has already reached this host
LOOK_AGAIN_S = 0.25


class IncomingCopy:
    """The copy of one move. `is_receiving`: whether the engine still waits for it."""

    def __init__(
        self,
        move: Move,
        control: MigrationControl,
        deliver: Callable[[facts.DestinationFact], None],
        is_receiving: Callable[[], bool],
    ) -> None:
        self._move = move
        self._control = control
        self._deliver = deliver
        self._is_receiving = is_receiving

    def tell(self, status: str) -> None:
        """Tell the engine, if QEMU's word for where its migration stands says how it has ended."""
        if status == "completed":
            self._deliver(facts.IncomingLoaded())
        elif status == "failed":
            self._deliver(facts.IncomingBroken(f"QEMU on {self._move.destination} could not load the state"))

    async def look(self) -> None:
        """Nobody listened to QEMU for a while: learn what was missed, if it answers."""
        with suppress(Unknown):
            await self._look()

    async def _look(self) -> str:
        status = (await self._control.query()).status
        self.tell(status)
        return status

    async def look_for_some_seconds(self) -> None:
        """Watch a QEMU that answers until it has loaded what has come, or will not. Of a silent one nothing is told."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + LOOK_S
        with suppress(Unknown):
            while self._is_receiving():
                await self._look()
                if loop.time() >= until_s and self._is_receiving():
                    self._deliver(facts.IncomingBroken("the state did not arrive completely"))
                    return
                await asyncio.sleep(LOOK_AGAIN_S)

    async def load(self, state_file: str) -> None:
        """Let QEMU load the saved state, unless an agent before this one has told it to.

        Raises `Failed` where the state or QEMU is at fault.
        """
        answers = True
        while self._is_receiving():
            try:
                if await self._look() == "none":
                    await load_state(self._move, state_file, self._control)
            except Unknown as error:
                if answers:
                    log = structlog.get_logger().bind(move=self._move.id, vm=self._move.vm)
                    log.warning("QEMU does not answer, the saved state waits for it", error=str(error))
                answers = False
                await asyncio.sleep(AGAIN_S)
            else:
                return
