"""The VM as its user defined it, every value checked and every default filled in.

Instances come from `parse` and `serialise.from_dict`, which check them; nothing here checks again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from bascule.errors import Finding, Refused

Accelerator = Literal["auto", "kvm", "tcg"]
DiskFormat = Literal["qcow2", "raw"]
Chipset = Literal["q35", "pc"]

# Each disk and NIC has a PCI address that is fixed for ever, so there is an end to them; see `qemu.command_line`.
MAX_DISKS = 64
MAX_NICS = 56
MAX_QUEUES = 16

_VERSIONED_MACHINE = re.compile(r"pc-(q35|i440fx)-[a-z0-9.]+")
# Ubuntu names its types by the release whose QEMU has them.
_UBUNTU = {
    "jammy": (6, 2),
    "kinetic": (7, 0),
    "lunar": (7, 2),
    "mantic": (8, 0),
    "noble": (8, 2),
    "oracular": (9, 0),
    "plucky": (9, 2),
}
_NEWEST = (1000,)


@dataclass(frozen=True, slots=True)
class KernelBoot:
    """Boot this kernel directly. Paths are the host's."""

    kernel: str
    initrd: str | None = None
    command_line: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk image, or a block device below /dev, at the same `path` on every host."""

    path: str
    format: DiskFormat
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card on the host's bridge of that name. `mac` is in lower case with colons.

    `queues`: pairs of queues, each for a vCPU of the guest's. `vhost`: the kernel's vhost-net serves it on hosts that
    have that, and QEMU on others. `udp_segmentation`: the guest may leave it to the card to cut UDP into packets, and
    be left with what is to be cut, where the host's tap can (Linux 6.2 and later): it then moves to no older one.
    """

    bridge: str
    mac: str
    queues: int = 1
    vhost: bool = False
    udp_segmentation: bool = True


@dataclass(frozen=True, slots=True)
class Definition:
    """One VM. `boot` None means its first disk. A serial console is always there."""

    name: str
    uuid: str
    memory_mib: int
    vcpus: int
    cpu: str
    machine: str
    accel: Accelerator
    boot: KernelBoot | None = None
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    vnc: bool = False
    rng: bool = True
    balloon: bool = True

    @property
    def chipset(self) -> Chipset:
        """Which of the two PC chipsets QEMU has the machine type belongs to."""
        return "q35" if self.machine == "q35" or self.machine.startswith("pc-q35-") else "pc"


def is_versioned(machine: str) -> bool:
    """Whether the type means the same machine with every QEMU: `pc-q35-7.2` and, from Ubuntu, `pc-q35-noble`."""
    return _VERSIONED_MACHINE.fullmatch(machine) is not None


def machine_version(machine: str) -> tuple[int, ...]:
    """The version of QEMU that a versioned type is of; one that is not known by its name is newer than all that are."""
    version = machine.rsplit("-", 1)[-1]
    parts = version.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else _UBUNTU.get(version, _NEWEST)


def pin_machine(definition: Definition, aliases: Mapping[str, str]) -> Definition:
    """Replace a machine alias by the versioned type that it stands for on the defining host.

    `aliases` maps each alias that QEMU knows to its type. Raises `Refused` if the machine is neither versioned nor
    one of them.
    """
    pinned = aliases.get(definition.machine, definition.machine)
    if not is_versioned(pinned):
        known = ", ".join(sorted(alias for alias, machine in aliases.items() if is_versioned(machine)))
        remedy = f"name a versioned type such as pc-q35-7.2{f', or one of: {known}' if known else ''}"
        finding = Finding("machine", f'this QEMU has no versioned type for "{definition.machine}"', remedy)
        raise Refused.from_findings(f"define VM {definition.name}", [finding])
    return replace(definition, machine=pinned)


def stable_mac(vm_uuid: str, index: int, taken: Collection[str]) -> str:
    """The MAC of NIC `index` when its user gave none: always the same for the same VM, and none of `taken`.

    52:54:00 is the prefix that QEMU and libvirt use for locally chosen addresses.
    """
    attempt = 0
    while True:
        digest = hashlib.sha256(f"{vm_uuid}/nic/{index}/{attempt}".encode()).digest()
        mac = "52:54:00:" + digest[:3].hex(":")
        if mac not in taken:
            return mac
        attempt += 1
