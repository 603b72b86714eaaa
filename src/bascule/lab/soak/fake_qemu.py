#!/usr/bin/env -S python3 -IS
"""A QEMU without a guest: it speaks QMP, sends a small state to another process, and keeps the order of things.

It is copied beside the agents' cache and started by them as their QEMU, by the system's Python and with nothing but its
standard library. What it keeps of the real one's behaviour is what the agents rely on: nothing runs before `cont`; a
copy goes in passes until the downtime limit is raised, then stops the guest (STOP), sends the rest, and is `completed`
once the other side has loaded everything; that side stays paused; a copy that fails or is cancelled leaves the guest
running; a saved state goes into a file; the process ends by `quit` alone. KVM it has none.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Json = dict[str, Any]
Answer = dict[str, Any] | list[dict[str, Any]]

TOTAL_BYTES = 64 << 20
STATE_BYTES = 32 << 10
DIRTY_BYTES = 4 << 20  # in each pass
BYTES_PER_MS = 1_000_000
PASS_S = 0.01
PARAMETERS = ("max-bandwidth", "downtime-limit")
CAPABILITIES = ("events", "return-path", "late-block-activate")
MACHINE = "pc-q35-7.2"
MODEL = "Nehalem"


def text_type(name: str, *members: str) -> Json:
    """An object type of the schema, all of whose members are strings."""
    return {"name": name, "meta-type": "object", "members": [{"name": member, "type": "str"} for member in members]}


def schema() -> list[Json]:
    """As much of QMP's description of itself as names what is used."""
    commands = {
        "migrate-set-parameters": "parameters",
        "migrate-set-capabilities": "capabilities",
        **dict.fromkeys(("migrate", "migrate-incoming"), "uri"),
        **dict.fromkeys(("query-migrate", "migrate_cancel", "yank", "getfd", "closefd", "cont", "stop"), "nothing"),
    }
    listed = {"name": "list", "meta-type": "array", "element-type": "capability"}
    return [
        text_type("parameters", *PARAMETERS),
        {"name": "capabilities", "meta-type": "object", "members": [{"name": "capabilities", "type": "list"}]},
        listed,
        {"name": "capability", "meta-type": "object", "members": [{"name": "capability", "type": "names"}]},
        {"name": "names", "meta-type": "enum", "members": [{"name": name} for name in CAPABILITIES]},
        text_type("uri", "uri"),
        text_type("nothing"),
        *({"name": n, "meta-type": "command", "arg-type": a, "ret-type": "nothing"} for n, a in commands.items()),
        *({"name": name, "meta-type": "event"} for name in ("STOP", "RESUME", "MIGRATION", "MIGRATION_PASS")),
    ]


class RefusedError(Exception):
    """What QEMU answers with an error."""


class CutOffError(OSError):
    """A copy that does not come to its end."""


class Qemu:
    """The process's state. Commands come one at a time; a copy has a thread of its own."""

    def __init__(self, arguments: list[str]) -> None:
        self.lock = threading.RLock()
        self.session: socket.socket | None = None
        self.status = "inmigrate" if "-incoming" in arguments else "prelaunch"
        self.migration: Json = {}
        self.ram = {
            "transferred": 0,
            "remaining": 0,
            "total": 0,
            "dirty-sync-count": 0,
            "mbps": BYTES_PER_MS * 8 / 1000,
        }
        self.parameters = {"max-bandwidth": 0, "downtime-limit": 300}
        self.capabilities = dict.fromkeys(CAPABILITIES, False)
        self.passed: list[int] = []
        self.named: dict[str, int] = {}
        self.cancelled = threading.Event()

    # --- QMP ---------------------------------------------------------------------------------------------------------

    def serve(self, path: str) -> None:
        """Serve one session after the other, until `quit`."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(2)
        while True:
            session, _ = listener.accept()
            with self.lock:
                self.session = session
            version = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": "fake"}
            self.say({"QMP": {"version": version, "capabilities": ["oob"]}})
            with suppress(OSError):
                self.listen(session)
            with self.lock:
                self.session = None
            session.close()

    def listen(self, session: socket.socket) -> None:
        """Read commands, one in a line or not, and descriptors that come beside them."""
        rest = b""
        decoder = json.JSONDecoder()
        while True:
            data, fds, _, _ = socket.recv_fds(session, 65536, 4)
            self.passed += fds
            if not data:
                return
            rest += data
            while rest.strip():
                text = rest.decode().lstrip()
                try:
                    command, end = decoder.raw_decode(text)
                except ValueError:
                    break
                rest = text[end:].encode()
                self.answer(command)

    def answer(self, command: Json) -> None:
        """Perform one command."""
        name = command.get("execute") or command.get("exec-oob")
        known = COMMANDS.get(str(name), Qemu.unknown)
        reply = {"id": command["id"]} if "id" in command else {}
        try:
            with self.lock:
                reply["return"] = known(self, command.get("arguments", {}))
        except RefusedError as error:
            reply["error"] = {"class": "GenericError", "desc": str(error)}
        self.say(reply)
        if name == "quit":
            os._exit(0)

    def say(self, message: Json) -> None:
        """Send to whoever holds the session."""
        with self.lock:
            if self.session is not None:
                with suppress(OSError):
                    self.session.sendall(json.dumps(message).encode() + b"\r\n")

    def event(self, name: str, **data: object) -> None:
        """Tell an event."""
        seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
        stamp = {"seconds": seconds, "microseconds": microseconds}
        self.say({"event": name, "data": data, "timestamp": stamp})

    # Each command's answer; COMMANDS has their names.

    def unknown(self, _arguments: Json) -> Answer:
        """Refuse what is not known."""
        raise RefusedError("The command has not been found")

    def _nothing(self, _arguments: Json) -> Answer:
        return {}

    def _query_version(self, _arguments: Json) -> Answer:
        return {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": "fake"}

    def _query_machines(self, _arguments: Json) -> Answer:
        return [{"name": MACHINE, "alias": "q35"}]

    def _query_cpu_definitions(self, _arguments: Json) -> Answer:
        return [{"name": MODEL, "unavailable-features": []}]

    def _query_cpu_model_expansion(self, _arguments: Json) -> Answer:
        return {"model": {"name": "max", "props": {"sse2": True}}}

    def _query_qmp_schema(self, _arguments: Json) -> Answer:
        return schema()

    def _query_status(self, _arguments: Json) -> Answer:
        return {"status": self.status, "running": self.status == "running"}

    def _query_migrate(self, _arguments: Json) -> Answer:
        return {**self.migration, "ram": dict(self.ram)} if "status" in self.migration else {}

    def _query_migrate_capabilities(self, _arguments: Json) -> Answer:
        return [{"capability": name, "state": state} for name, state in self.capabilities.items()]

    def _migrate_set_capabilities(self, arguments: Json) -> Answer:
        for change in arguments["capabilities"]:
            self.capabilities[change["capability"]] = change["state"]
        return {}

    def _migrate_set_parameters(self, arguments: Json) -> Answer:
        self.parameters.update(arguments)
        return {}

    def _getfd(self, arguments: Json) -> Answer:
        self.named[arguments["fdname"]] = self.passed.pop()
        return {}

    def _closefd(self, arguments: Json) -> Answer:
        os.close(self.named.pop(arguments["fdname"]))
        return {}

    def _cont(self, _arguments: Json) -> Answer:
        if self.status in ("inmigrate", "finish-migrate"):
            raise RefusedError(f"the VM is {self.status}")
        if self.status != "running":
            self.status = "running"
            self.event("RESUME")
        return {}

    def _stop(self, _arguments: Json) -> Answer:
        if self.status == "running":
            self.status = "paused"
            self.event("STOP")
        return {}

    def _migrate_cancel(self, _arguments: Json) -> Answer:
        self.cancelled.set()
        return {}

    def _migrate(self, arguments: Json) -> Answer:
        if self.migration.get("status") in ("setup", "active"):
            raise RefusedError("There's a migration process in progress")
        self.cancelled.clear()
        self.note("setup")
        self.copy(self.send, arguments["uri"])
        return {}

    def _migrate_incoming(self, arguments: Json) -> Answer:
        uri = arguments["uri"]
        if uri.startswith("fd:"):
            self.copy(self.load, self.named.pop(uri[3:]))
            return {}
        address, _, port = uri[4:].rpartition(":")
        try:
            listener = socket.create_server((address, int(port)), backlog=1)
        except OSError as error:
            raise RefusedError(f"Failed to bind socket: {error.strerror}") from error
        self.migration["socket-address"] = [{"host": address, "port": str(listener.getsockname()[1]), "type": "inet"}]
        self.migration["status"] = "setup"
        self.copy(self.receive, listener)
        return {}

    # --- copies ------------------------------------------------------------------------------------------------------

    def note(self, status: str) -> None:
        """Note and tell how far the copy is."""
        self.migration = {**self.migration, "status": status}
        if self.capabilities["events"]:
            self.event("MIGRATION", status=status)

    def copy(self, work: Callable[..., None], what: object) -> None:
        """Perform `work` beside the session."""
        threading.Thread(target=work, args=(what,), daemon=True).start()

    def one_pass(self, number: int, remaining: int) -> None:
        """Begin a pass."""
        with self.lock:
            sent = TOTAL_BYTES + (number - 2) * remaining if number > 1 else 0
            self.ram.update(
                {"dirty-sync-count": number, "total": TOTAL_BYTES, "remaining": remaining, "transferred": sent}
            )
            self.ram["precopy-bytes"] = sent
            if self.capabilities["events"]:
                self.event("MIGRATION_PASS", **{"pass": number})

    def send(self, uri: str) -> None:
        """Copy to another process, or into a file."""
        was_running = self.status == "running"
        try:
            if uri.startswith("fd:"):
                self.save(self.named.pop(uri[3:]))
            else:
                self.send_live(uri)
        except OSError as error:
            with self.lock:
                self.migration["error-desc"] = str(error)
                self.note("cancelled" if self.cancelled.is_set() else "failed")
                if was_running and self.status != "running":
                    self.status = "running"
                    self.event("RESUME")

    def send_live(self, uri: str) -> None:
        """Pass after pass until the downtime limit allows the end."""
        address, _, port = uri[4:].rpartition(":")
        with socket.create_connection((address, int(port)), timeout=5) as connection:
            with self.lock:
                self.note("active")
            number = 1
            self.one_pass(number, TOTAL_BYTES)
            while number < 2 or self.parameters["downtime-limit"] * BYTES_PER_MS < DIRTY_BYTES:
                if self.cancelled.wait(PASS_S):
                    raise CutOffError("cancelled")
                number += 1
                self.one_pass(number, DIRTY_BYTES)
            with self.lock:
                self.status = "finish-migrate"
                self.event("STOP")
            connection.sendall(bytes(STATE_BYTES))
            connection.shutdown(socket.SHUT_WR)
            if connection.recv(16) != b"loaded":
                raise CutOffError("the other side did not load the state")
        with self.lock:
            self.ram["remaining"] = 0
            self.status = "postmigrate"
            self.note("completed")

    def save(self, file: int) -> None:
        """Write everything into a file."""
        with os.fdopen(file, "wb") as stream:
            stream.write(bytes(STATE_BYTES))
        with self.lock:
            self.status = "postmigrate"
            self.note("completed")

    def receive(self, listener: socket.socket) -> None:
        """Load what another process sends. A real one ends where nothing comes, and so does this."""
        connection, _ = listener.accept()
        listener.close()
        with connection:
            with self.lock:
                self.note("active")
            received = 0
            while data := connection.recv(65536):
                received += len(data)
            if received != STATE_BYTES:
                print("load of migration failed: Input/output error", file=sys.stderr, flush=True)
                os._exit(1)
            self.loaded()
            connection.sendall(b"loaded")

    def load(self, file: int) -> None:
        """Load from a file."""
        with os.fdopen(file, "rb") as stream:
            received = len(stream.read(STATE_BYTES))
        if received != STATE_BYTES:
            os._exit(1)
        self.loaded()

    def loaded(self) -> None:
        """Everything is here, and stands paused."""
        with self.lock:
            self.status = "paused"
            self.note("completed")


COMMANDS: dict[str, Callable[[Qemu, Json], Answer]] = {
    "qmp_capabilities": Qemu._nothing,
    "query-version": Qemu._query_version,
    "query-machines": Qemu._query_machines,
    "query-cpu-definitions": Qemu._query_cpu_definitions,
    "query-cpu-model-expansion": Qemu._query_cpu_model_expansion,
    "query-qmp-schema": Qemu._query_qmp_schema,
    "query-status": Qemu._query_status,
    "query-migrate": Qemu._query_migrate,
    "query-migrate-capabilities": Qemu._query_migrate_capabilities,
    "migrate-set-capabilities": Qemu._migrate_set_capabilities,
    "migrate-set-parameters": Qemu._migrate_set_parameters,
    "migrate": Qemu._migrate,
    "migrate-incoming": Qemu._migrate_incoming,
    "migrate_cancel": Qemu._migrate_cancel,
    "yank": Qemu._migrate_cancel,
    "getfd": Qemu._getfd,
    "closefd": Qemu._closefd,
    "cont": Qemu._cont,
    "stop": Qemu._stop,
    "quit": Qemu._nothing,
}


def main() -> None:
    """Do as the arguments say."""
    arguments = sys.argv[1:]
    if "kvm" in arguments:
        sys.exit("a fake QEMU has no KVM")
    places = [word.split("path=", 1)[1].split(",")[0] for word in arguments if word.startswith("socket,id=qmp,")]
    if "-pidfile" in arguments:
        Path(arguments[arguments.index("-pidfile") + 1]).write_text(f"{os.getpid()}\n")
    Qemu(arguments).serve(places[0])


if __name__ == "__main__":
    main()
