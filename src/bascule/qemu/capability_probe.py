"""Asks a QEMU that runs no VM what it can do, once for each binary and accelerator."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from bascule.errors import Refused
from bascule.qemu.capabilities import HOST_MODELS, HostCapabilities
from bascule.qemu.command_line import SANDBOX, LaunchPaths, monitor
from bascule.qemu.machine import LaunchSpec, QemuMachine
from bascule.qemu.qmp_schema import read_schema
from bascule.qemu.throwaway import ASKED
from bascule.qemu.user import QemuUser


class CapabilityProbe:
    """What the QEMU `binary` of this host can do; answers are kept in memory and, if given, in `cache_file`.

    `parent` is the folder under which short-lived directories are made; the QEMU user must be able to enter it.
    """

    def __init__(
        self,
        binary: str,
        *,
        user: QemuUser | None = None,
        cache_file: Path | None = None,
        parent: Path | None = None,
    ) -> None:
        self._binary = binary
        self._user = user
        self._cache_file = cache_file
        self._parent = parent
        self._known: dict[str, HostCapabilities] = {}
        self._models: dict[tuple[str, str], frozenset[str]] = {}
        self._asking = asyncio.Lock()

    async def capabilities(self, accelerator: str) -> HostCapabilities:
        """Facts about this host with `accelerator` (`kvm` or `tcg`).

        Raises `Refused` without such a binary, and `QemuExited` with QEMU's own words if it cannot use the
        accelerator.
        """
        async with self._asking:
            identity = _identity(self._binary, accelerator)
            if identity not in self._known:
                self._known[identity] = self._load(identity) or await self._ask(identity, accelerator)
            return self._known[identity]

    async def features_of(self, model: str, accelerator: str) -> frozenset[str]:
        """The CPU features that a guest of CPU `model` has on this host: as defined, less those not available."""
        facts = await self.capabilities(accelerator)
        if model in HOST_MODELS:
            return facts.cpu_features
        key = (_identity(self._binary, accelerator), model)
        async with self._asking:
            if key not in self._models:
                async with idle_machine(self._binary, accelerator, self._user, self._parent) as machine:
                    self._models[key] = await _expand(machine, model)
        return self._models[key] - facts.missing_features(model)

    async def _ask(self, identity: str, accelerator: str) -> HostCapabilities:
        async with idle_machine(self._binary, accelerator, self._user, self._parent) as machine:
            version = await machine.execute("query-version")
            machines = await machine.execute("query-machines")
            models = await machine.execute("query-cpu-definitions")
            vendor, name = _cpu()
            facts = HostCapabilities(
                binary=self._binary,
                version="{major}.{minor}.{micro}".format(**version["qemu"]),
                accelerator=accelerator,
                features=read_schema(await machine.execute("query-qmp-schema")),
                machines={m["name"]: m["name"] for m in machines}
                | {m["alias"]: m["name"] for m in machines if "alias" in m},
                deprecated_machines=frozenset(m["name"] for m in machines if m.get("deprecated")),
                cpu_vendor=vendor,
                cpu_name=name,
                cpu_features=await _expand(machine, "host" if accelerator == "kvm" else "max"),
                cpu_models={m["name"]: tuple(sorted(set(m.get("unavailable-features", ())))) for m in models},
            )
        self._save(identity, facts)
        return facts

    def _load(self, identity: str) -> HostCapabilities | None:
        # A file that is missing, damaged or of an older layout only means that QEMU is asked again.
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            return HostCapabilities.from_dict(self._cached()[identity])
        return None

    def _save(self, identity: str, facts: HostCapabilities) -> None:
        if self._cache_file is None:
            return
        entries: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            entries = dict(self._cached())
        while len(entries) >= 4:  # two binaries with two accelerators each; the oldest goes
            del entries[next(iter(entries))]
        write_json(self._cache_file, entries | {identity: facts.to_dict()})

    def _cached(self) -> Mapping[str, Any]:
        data = json.loads(self._cache_file.read_text()) if self._cache_file else {}
        return data if isinstance(data, dict) else {}


@asynccontextmanager
async def idle_machine(
    binary: str, accelerator: str, user: QemuUser | None, parent: Path | None
) -> AsyncIterator[QemuMachine]:
    """A QEMU without any machine in it, to be asked questions; gone at the end."""
    directory = f"{parent or tempfile.gettempdir()}/{ASKED}{secrets.token_hex(6)}"
    argv = (
        *(binary, "-M", "none", "-accel", accelerator, "-nodefaults", "-no-user-config", "-display", "none", "-S"),
        *("-sandbox", SANDBOX, "-pidfile", LaunchPaths(directory).pidfile),
        *monitor(LaunchPaths(directory).qmp),
    )
    machine = await QemuMachine.launch(LaunchSpec(argv, directory, user))
    try:
        yield machine
    finally:
        await machine.quit()
        await machine.discard()


def write_json(path: Path, data: object) -> None:
    """Write `data` to `path` so that a reader finds the old or the new content, never a part."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        temporary.write_text(json.dumps(data))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


async def _expand(machine: QemuMachine, model: str) -> frozenset[str]:
    # "static" names each CPU feature once; "full" would add aliases and settings that are no features.
    answer = await machine.execute("query-cpu-model-expansion", {"type": "static", "model": {"name": model}})
    return frozenset(name for name, value in answer["model"]["props"].items() if value is True)


def _identity(binary: str, accelerator: str) -> str:
    """Changes whenever the answers may: another binary, accelerator, kernel or CPU."""
    path = shutil.which(binary)
    if path is None:
        raise Refused(
            f"cannot find QEMU as {binary}", "install it (Debian and Ubuntu: qemu-system-x86), or name its path"
        )
    status = Path(path).stat()
    return " ".join((path, str(status.st_mtime_ns), str(status.st_size), accelerator, platform.release(), *_cpu()))


def _cpu() -> tuple[str, str]:
    """Vendor and name of the host's CPU."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("vendor_id", "unknown"), fields.get("model name", "unknown")
