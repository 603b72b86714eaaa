"""What a case left behind on the hosts, if anything: looked for until nothing is found, for some seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from bascule.errors import BasculeError
from bascule.lab.faults.injection import pids_in
from bascule.lab.faults.qemu_watch import QemuWatch, WatchedQemu
from bascule.lab.laboratory import Host, Lab
from bascule.storage.image_lock import image_use

_PATIENCE_S = 8.0
_LOOK_S = 0.1
_LISTENING = "0A"
_LIMITS = ("max-bandwidth", "downtime-limit", "cpu-throttle-initial", "cpu-throttle-increment", "max-cpu-throttle")

Limits = Mapping[str, Any]


def limits(watch: QemuWatch, qemu: WatchedQemu) -> Limits:
    """Return what a move may raise in a QEMU: bandwidth, downtime limit, throttle, capabilities. Raises OSError."""
    try:
        parameters = watch.ask(qemu, "query-migrate-parameters")
        capabilities = watch.ask(qemu, "query-migrate-capabilities")
    except TimeoutError as error:
        raise OSError(f"QEMU (pid {qemu.pid}) does not answer") from error
    found = {name: parameters.get(name) for name in _LIMITS}
    return found | {"capabilities": sorted(each["capability"] for each in capabilities if each["state"])}


class Tidiness:
    """How the hosts look when nothing is under way: compared with how they looked before the first case."""

    def __init__(self, lab: Lab, watch: QemuWatch, vm: str, disk: Path, fresh: Limits) -> None:
        """`fresh`: the limits of a QEMU that has never moved."""
        self._lab, self._watch, self._vm, self._disk, self._fresh = lab, watch, vm, disk, fresh
        self._shared = self._names(lab.shared_directory)
        self._ports = {host.name: self._open_ports(host) for host in lab.hosts}

    def leftovers(self, owners: Collection[str]) -> list[str]:
        """Return a sentence for each thing that should not be there, after some patience. `owners` have the VM."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                found = list(self._look(owners))
            except (OSError, BasculeError) as error:
                found = [f"could not look: {error}"]
            if not found or time.monotonic() > give_up_s:
                return found
            time.sleep(_LOOK_S)

    def _look(self, owners: Collection[str]) -> Iterator[str]:
        for host in self._lab.hosts:
            yield from (f"on {host.name}, {what}" for what in self._look_at(host))
            marks = self._names(host.places.run / "ran")
            if marks and host.name not in owners:
                yield f"on {host.name}, marks {sorted(marks)} of a VM that is not its"
        extra = self._names(self._lab.shared_directory) - self._shared
        yield from (f"shared file {name}" for name in sorted(extra))
        use = image_use(self._disk)
        running = {qemu.pid for host in self._lab.hosts for qemu in self._watch.of(host.name) if qemu.runs}
        holders = {holder.pid for holder in use.holders} if use.written else set()
        if holders != running:
            yield f"the image is locked by {sorted(holders)}, and {sorted(running)} run"

    def _look_at(self, host: Host) -> Iterator[str]:
        qemus = self._watch.of(host.name)
        living = [qemu for qemu in qemus if qemu.runs]
        known = {self._lab.agent(host.name).pid, *(qemu.pid for qemu in living)}
        for pid in set(pids_in(self._lab, host.name)) - known:
            yield f"process {pid}: {_command(pid)}"
        taps = len(self._taps(host))
        if taps != len(living):
            yield f"{taps} taps for {len(living)} VMs"
        if ports := self._open_ports(host) - self._ports[host.name]:
            yield f"open ports {sorted(ports)}"
        expected = {self._vm} if living else set()
        if extra := self._names(host.places.run / "vms") - expected:
            yield f"folders of VMs {sorted(extra)}"
        for qemu in living:
            if (now := limits(self._watch, qemu)) != self._fresh:
                changed = {key: value for key, value in now.items() if value != self._fresh[key]}
                yield f"QEMU (pid {qemu.pid}) has {changed}, not { ({key: self._fresh[key] for key in changed}) }"

    def _names(self, folder: Path) -> set[str]:
        return {entry.name for entry in folder.iterdir()} if folder.exists() else set()

    def _taps(self, host: Host) -> list[str]:
        shown = self._lab.run(host.name, ["ip", "-json", "link", "show", "type", "tun"]).stdout
        return [link["ifname"] for link in json.loads(shown or "[]") if link]

    def _open_ports(self, host: Host) -> set[int]:
        """The TCP ports on which somebody in the host's namespace listens, as the kernel tells its agent."""
        found = set()
        for table in ("tcp", "tcp6"):
            lines = Path(f"/proc/{self._lab.agent(host.name).pid}/net/{table}").read_text().splitlines()[1:]
            for line in lines:
                _, local, _, state, *_ = line.split()
                if state == _LISTENING:
                    found.add(int(local.rpartition(":")[2], 16))
        return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:100]
    except OSError:
        return "gone by now"
