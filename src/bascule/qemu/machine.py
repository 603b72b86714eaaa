"""A VM's QEMU as the agent holds it: the process and the session on its monitor, as one thing.

What QEMU does of itself, seen in this project's tests, and what that means for whoever holds a machine:

- started with `-S`, nothing in it runs before `let_vcpus_run`; a destination stays `inmigrate` while it loads and
  turns `paused` when it has loaded everything
- it ends when the guest powers itself off, and when it is sent SIGTERM; never because the agent's session ends
- frozen (SIGSTOP), it answers nothing and does not end: commands time out, only `kill` helps
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from bascule.errors import Failed, Refused
from bascule.qemu.command_line import LaunchPaths
from bascule.qemu.process import ExitStatus, QemuExited, QemuProcess
from bascule.qemu.process_record import ProcessRecord
from bascule.qemu.qmp import COMMAND_DEADLINE_S, EventCallback, QmpDisconnected, QmpEvent, QmpSession, QmpTimeout
from bascule.qemu.user import QemuUser

_LAUNCH_DEADLINE_S = 15.0
_ADOPT_DEADLINE_S = 5.0
_RECONNECT_PAUSE_S = 0.5
_LAST_WORDS_S = 0.5


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """All that is needed to start one QEMU; its `argv` places its files in `directory` as `LaunchPaths` says."""

    argv: tuple[str, ...]
    directory: str
    user: QemuUser | None = None
    pass_fds: tuple[int, ...] = ()


class QemuMachine:
    """One QEMU process with its session."""

    def __init__(self, process: QemuProcess) -> None:
        """Use `launch` or `adopt`."""
        self.process = process
        self._session: QmpSession | None = None
        self._callbacks: list[EventCallback] = []

    @classmethod
    async def launch(cls, spec: LaunchSpec, *, deadline_s: float = _LAUNCH_DEADLINE_S) -> Self:
        """Start QEMU and wait until its monitor answers; nothing runs in it yet (`-S` is in its arguments).

        Raises `Refused` if it cannot be started, `QemuExited` with QEMU's own words if it gives up, `QmpTimeout`;
        neither process nor directory is left then.
        """
        process = QemuProcess.start(spec.argv, directory=spec.directory, user=spec.user, pass_fds=spec.pass_fds)
        machine = cls(process)
        try:
            await machine.reconnect(deadline_s=deadline_s)
        except BaseException:
            await machine.kill()
            await machine.discard()
            raise
        return machine

    @classmethod
    async def adopt(cls, record: ProcessRecord, *, deadline_s: float = _ADOPT_DEADLINE_S) -> Self:
        """Take over a QEMU that an earlier agent started; its vCPUs go on as they are.

        One that lives and does not answer is taken over all the same: it is not `connected` then, and `keep_session`
        goes on trying. Raises `QemuExited` if it is gone.
        """
        machine = cls(QemuProcess.adopt(record))
        try:
            with suppress(QmpTimeout, QmpDisconnected):
                await machine.reconnect(deadline_s=deadline_s)
        except BaseException:
            machine.process.close()
            raise
        return machine

    @classmethod
    def ended(cls, record: ProcessRecord) -> Self:
        """Stand for a QEMU that has ended: it answers nothing, and its directory can be discarded."""
        return cls(QemuProcess.ended(record))

    async def keep_session(self, on_back: Callable[[], None]) -> None:
        """Open the session again whenever it is lost, as long as the process lives; call `on_back` each time.

        Events in between are lost: whoever needs them has to ask QEMU for its state.
        """
        while True:
            if self.connected:
                await self.disconnected()
            while not self.connected:
                try:
                    self.process.raise_if_exited()
                    await self.reconnect()
                except QemuExited:
                    return
                except (QmpTimeout, QmpDisconnected):
                    await asyncio.sleep(_RECONNECT_PAUSE_S)
            on_back()

    async def reconnect(self, *, deadline_s: float = _ADOPT_DEADLINE_S) -> None:
        """Open the session, or a new one after it was lost. Events in between are lost: ask for the state."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        path = LaunchPaths(self.process.record.directory).qmp
        try:
            self._session = await QmpSession.connect(
                path, self._on_event, deadline_s=deadline_s, check=self.process.raise_if_exited
            )
        except QmpDisconnected as error:
            await self._raise_last_words(error)

    @property
    def record(self) -> ProcessRecord:
        """What the journal keeps, and `adopt` takes."""
        return self.process.record

    @property
    def connected(self) -> bool:
        """Whether the session stands."""
        return self._session is not None and self._session.connected

    async def exited(self) -> ExitStatus:
        """Wait for the end of the process."""
        return await self.process.exited()

    async def disconnected(self) -> str:
        """Wait for the end of the session, whatever ended it; returns why. The process may well live on."""
        return "there is no session" if self._session is None else await self._session.ended()

    def subscribe(self, callback: EventCallback) -> Callable[[], None]:
        """Call `callback` for each event from now on, synchronously, in QEMU's order; returns what ends that."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        deadline_s: float = COMMAND_DEADLINE_S,
        out_of_band: bool = False,
    ) -> Any:
        """Run any QMP command; see `QmpSession.execute`. Raises `QemuExited` if QEMU died over it or before."""
        session = self._require_session(command)
        try:
            return await session.execute(command, arguments, deadline_s=deadline_s, out_of_band=out_of_band)
        except QmpDisconnected as error:
            await self._raise_last_words(error)

    async def pass_fd(self, descriptor: int, name: str) -> None:
        """Give QEMU a duplicate of `descriptor` as `name`."""
        try:
            await self._require_session("getfd").pass_fd(descriptor, name)
        except QmpDisconnected as error:
            await self._raise_last_words(error)

    async def status(self) -> str:
        """QEMU's run state: `running`, `paused`, `inmigrate`, `postmigrate`, `finish-migrate`, `shutdown`, ..."""
        answer = await self.execute("query-status")
        return str(answer["status"])

    async def let_vcpus_run(self) -> None:
        """Let the guest run. Only the agent's gate calls this, which has checked that the VM belongs here.

        After a completed outgoing migration it takes the disks' locks back first, and fails if the destination
        has them: *Failed to get "write" lock*.
        """
        await self.execute("cont")

    async def stop_vcpus(self) -> None:
        """Stop the guest; its disks are flushed and stay locked."""
        await self.execute("stop")

    async def power_button(self) -> None:
        """Press the virtual power button (ACPI); a guest that listens shuts itself down."""
        await self.execute("system_powerdown")

    async def stop(self, *, force: bool, timeout_s: float) -> ExitStatus:
        """Shut the guest down by its power button within `timeout_s`, or with `force` end QEMU at once.

        Raises `Refused` for a guest that does not run, since it cannot hear the button, and `Failed` if it has not
        ended in time: it runs on then, and what to do next is for the user to say.
        """
        if force:
            return await self.quit()
        state = await self.status()
        if state != "running":
            raise Refused(f"cannot shut the guest down: it is {state}", "stop it with force")
        await self.power_button()
        try:
            async with asyncio.timeout(timeout_s):
                return await self.exited()
        except TimeoutError:
            raise Failed(
                f"the guest did not shut down within {timeout_s:g} s of its power button",
                "it still runs; wait longer, or stop it with force",
            ) from None

    async def quit(self, *, deadline_s: float = COMMAND_DEADLINE_S) -> ExitStatus:
        """End QEMU: orderly, its disks flushed, if it does so within `deadline_s`; else by SIGKILL."""
        with suppress(QmpTimeout, QmpDisconnected, QemuExited):  # it may hang up before it answers
            await self.execute("quit", deadline_s=deadline_s)
        try:
            async with asyncio.timeout(deadline_s):
                return await self.exited()
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> ExitStatus:
        """End QEMU by SIGKILL and wait until the kernel has released all that it held."""
        return await self.process.kill()

    async def close(self) -> None:
        """Let go of QEMU, which lives on, ready to be adopted."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        self.process.close()

    async def discard(self) -> None:
        """Remove all that an ended QEMU left: the session and its directory."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        self.process.discard()

    def _require_session(self, command: str) -> QmpSession:
        if self._session is None:
            raise QmpDisconnected(f"cannot send {command}: there is no session", maybe_ran=False)
        return self._session

    async def _raise_last_words(self, error: QmpDisconnected) -> NoReturn:
        """Most sessions are lost with their process: wait a moment for its end, and let QEMU say why."""
        status = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                status = await self.exited()
        raise error if status is None else self.process.exit_error(status) from error

    def _on_event(self, event: QmpEvent) -> None:
        for callback in tuple(self._callbacks):
            try:
                callback(event)
            except Exception as error:  # one subscriber's mistake must not end the session of all
                asyncio.get_running_loop().call_exception_handler(
                    {"message": f"subscriber failed on QEMU's event {event.name}", "exception": error}
                )
