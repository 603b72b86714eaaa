"""QEMU's part of a move: the commands that set a migration up, start, watch, steer and end it.

What QEMU does of itself (each sentence is a test in tests/lab/qemu):

- A source whose migration fails or is cancelled goes on running its guest, or runs it again if it had stopped it. A
  guest that was stopped beforehand stays stopped. A cancelled migration may be called `failed` as well.
- A destination (`-S`, late-block-activate) is `paused` when it has loaded everything and has not touched the disks'
  locks; it exits with status 1, its reason on stderr, when its source goes away or the state cannot be loaded.
- A source that `completed` is `postmigrate` and can run again until the destination does; while that runs, it fails
  on the disks' write lock.
- The status is that of the last migration begun, also the incoming one: right after the start it is `setup`.
- A destination announces its NICs by itself, five times by RARP, and has the guest do so where its driver can, from
  its load on, though what it sends while it is paused only leaves when it runs. `prepare` has it send nothing;
  `announce-self` does.
- An idle guest finishes under the lowest downtime limit, right after the first round.
- While the guest is stopped and the destination does not read (frozen, its host gone), the source is stuck in sending:
  it answers no command, not even migrate_cancel, until the connection breaks. `cut` breaks it.

Seen with QEMU 7.2, and no test since it hangs on time: bandwidth is unknown in the first 100 ms, and a first round
that ends sooner is followed by the switchover whatever the guest has written meanwhile and whatever the limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from bascule.errors import Unknown
from bascule.qemu.machine import QemuMachine
from bascule.qemu.migration_stats import MigrationStats
from bascule.qemu.migration_stream import open_stream
from bascule.qemu.qmp import QmpError, QmpEvent, QmpTimeout
from bascule.qemu.qmp_schema import Features

QEMU_ANNOUNCE_ROUNDS = 5
UNCAPPED_BYTES_PER_S = (2**63 - 1) // 2**20 * 2**20  # the largest that QEMU takes, in whole MiB as libvirt sends it
QEMU_BANDWIDTH_BYTES_PER_S = 128 * 2**20
QEMU_DOWNTIME_LIMIT_MS = 300
FIRST_DOWNTIME_LIMIT_MS = 1

_WANTED = frozenset({"events", "late-block-activate"})
_POLL_S = 0.1
_STUCK_AFTER_S = 1.0
_FD_NAME = "bascule-migration"


@dataclass(frozen=True, slots=True)
class MigrationParameters:
    """How to copy. `max_bandwidth_bytes_per_s` None is uncapped; the cap is lifted while the guest is stopped.

    `return_path` must be on between hosts, so that the source learns whether the destination loaded everything, and
    off with a file or a pipe, which cannot answer.
    """

    max_bandwidth_bytes_per_s: int | None = None
    downtime_limit_ms: int = FIRST_DOWNTIME_LIMIT_MS
    return_path: bool = True


def tcp_uri(address: str, port: int) -> str:
    """QEMU's name for a TCP endpoint; `address` is a host name or an IPv4 or IPv6 address."""
    return f"tcp:[{address}]:{port}" if ":" in address else f"tcp:{address}:{port}"


class MigrationControl:
    """The migration commands of one machine; either side of a move. Holds no state that a restart could lose."""

    def __init__(self, machine: QemuMachine, features: Features) -> None:
        """`features` are those of the machine's own QEMU binary (`HostCapabilities.features`)."""
        self._machine = machine
        self._features = features

    async def prepare(self, parameters: MigrationParameters) -> None:
        """Set up this side before it starts; whatever an earlier migration had switched on is off again."""
        await self._set_capabilities(_WANTED | {"return-path"} if parameters.return_path else _WANTED)
        await self.set_max_bandwidth(parameters.max_bandwidth_bytes_per_s)
        await self.set_downtime_limit(parameters.downtime_limit_ms)
        # QEMU would announce what it loads by itself, by RARP alone and before anybody has decided that it runs here.
        await self._set({"announce-rounds": 0})

    async def restore(self) -> None:
        """Put back what QEMU starts with, on a machine whose migration has ended and which stays here."""
        await self._set_capabilities(frozenset())
        await self._set(
            {
                "max-bandwidth": QEMU_BANDWIDTH_BYTES_PER_S,
                "downtime-limit": QEMU_DOWNTIME_LIMIT_MS,
                "announce-rounds": QEMU_ANNOUNCE_ROUNDS,
            }
        )

    async def start_outgoing(self, uri: str) -> None:
        """Begin to send to the QEMU that listens at `uri` (`tcp_uri`); see `migration_stream`.

        Raises `Failed` if it cannot be reached; then nothing has begun.
        """
        with await open_stream(uri) as stream:
            await self._with_fd("migrate", stream.fileno())

    async def start_incoming(self, address: str, ports: Sequence[int] = (0,)) -> int:
        """Listen for the source on `address`, on the first of `ports` that is free (0: any); returns the port.

        Raises `QmpError` of the last port tried if none can be had. QEMU listens only once in its life.
        """
        for port in ports[:-1]:
            with suppress(QmpError):
                return await self._listen(address, port)
        return await self._listen(address, ports[-1])

    async def save_to_fd(self, descriptor: int) -> None:
        """Begin to send into a file, from its present position, or a pipe; QEMU gets a duplicate of `descriptor`.

        The guest should be stopped before (Quick Migration), else it runs on and pages are written repeatedly. Needs
        `return_path` off. When the status is `completed`, everything was written, yet not synced.
        """
        await self._with_fd("migrate", descriptor)

    async def load_from_fd(self, descriptor: int) -> None:
        """Begin to load from a file, from its present position, or a pipe; needs `return_path` off."""
        await self._with_fd("migrate-incoming", descriptor)

    async def set_downtime_limit(self, limit_ms: int) -> None:
        """From now on QEMU switches over as soon as it expects the rest to take no longer than `limit_ms` (from 1).

        0 would not mean "never": QEMU then looks for no newly written pages, and switches over after any round.
        """
        if limit_ms < 1:
            raise ValueError(f"a downtime limit is at least 1 ms, not {limit_ms}")
        await self._set({"downtime-limit": limit_ms})

    async def set_max_bandwidth(self, bytes_per_s: int | None) -> None:
        """Cap the copying, None for no cap; acts at once."""
        await self._set({"max-bandwidth": UNCAPPED_BYTES_PER_S if bytes_per_s is None else bytes_per_s})

    async def query(self) -> MigrationStats:
        """Where the migration of this machine stands."""
        return MigrationStats.read(await self._machine.execute("query-migrate"))

    async def wait_final(self, *, deadline_s: float) -> MigrationStats:
        """Wait until the migration has ended, in whatever way; the status tells.

        A source whose migration failed or was cancelled has by then taken its guest up again, if it was to. Raises
        `QemuExited` if QEMU dies (a destination that cannot load does), `Unknown` after `deadline_s`.
        """
        changed = asyncio.Event()

        def on_event(event: QmpEvent) -> None:
            if event.name in {"MIGRATION", "RESUME"}:
                changed.set()

        unsubscribe = self._machine.subscribe(on_event)
        stats = MigrationStats()
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    changed.clear()
                    with suppress(QmpTimeout):  # stuck at the other side, see `cut`; it may yet come free
                        stats = await self.query()
                        # The status turns final an instant before the guest is let go of.
                        if stats.final and await self._machine.status() != "finish-migrate":
                            return stats
                    # Events are off before `prepare` and may be lost with a session, so they only save time.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_POLL_S):
                            await changed.wait()
        except TimeoutError:
            raise Unknown(
                f"the migration had not ended within {deadline_s:g} s: QEMU (pid {self._machine.record.pid}) "
                f"says {stats.status}"
            ) from None
        finally:
            unsubscribe()

    async def cancel(self, *, deadline_s: float = 10.0) -> MigrationStats:
        """End an outgoing migration and wait until that is final.

        The status tells what came first: `cancelled` or `failed`, both mean that the guest goes on here, and the
        parameters are restored; or `completed`, it was too late and everything was sent. `none`: there was nothing
        to cancel. A source that is stuck in sending to the other side is cut off from it. A destination is not
        cancelled but killed.
        """
        try:
            await self._machine.execute("migrate_cancel", deadline_s=_STUCK_AFTER_S)
        except QmpTimeout:
            with suppress(QmpError):  # a file or a pipe cannot be cut
                await self.cut()
        stats = await self.query()
        if stats.status == "none":
            return stats
        stats = await self.wait_final(deadline_s=deadline_s)
        if stats.status != "completed":
            await self.restore()
        return stats

    async def cut(self) -> None:
        """Break the connection to the other side at once, which makes the migration fail unless it is over.

        It works when nothing else does: while a source sends the last pages to a destination that does not read,
        QEMU's main loop is stuck and answers no other command. Raises `QmpError` when there is no connection.
        """
        await self._machine.execute("yank", {"instances": [{"type": "migration"}]}, out_of_band=True)

    async def _listen(self, address: str, port: int) -> int:
        await self._machine.execute("migrate-incoming", {"uri": tcp_uri(address, port)})
        answer = await self._machine.execute("query-migrate")
        return int(answer["socket-address"][0]["port"])

    async def _with_fd(self, command: str, descriptor: int) -> None:
        await self._machine.pass_fd(descriptor, _FD_NAME)
        try:
            await self._machine.execute(command, {"uri": f"fd:{_FD_NAME}"})
        except QmpError:
            with suppress(QmpError):  # it may have been consumed all the same
                await self._machine.execute("closefd", {"fdname": _FD_NAME})
            raise

    async def _set_capabilities(self, wanted: frozenset[str]) -> None:
        """Switch `wanted` on, as far as this QEMU knows them, and every other one off."""
        present = await self._machine.execute("query-migrate-capabilities")
        changes = [
            {"capability": item["capability"], "state": item["capability"] in wanted}
            for item in present
            if item["state"] != (item["capability"] in wanted)
        ]
        if changes:
            await self._machine.execute("migrate-set-capabilities", {"capabilities": changes})

    async def _set(self, values: dict[str, int]) -> None:
        # QEMU refuses the whole set for one member that it does not know.
        known = {name: value for name, value in values.items() if name in self._features.migration_parameters}
        if known:
            await self._machine.execute("migrate-set-parameters", known)
