"""From the user's TOML file to a definition.

`read` holds the whole format: keys, defaults, and the rules between keys. JSON from the journal and from other
agents goes through it too, so nothing unchecked reaches QEMU's command line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace

from bascule.errors import Finding, Refused
from bascule.vm import rules
from bascule.vm.definition import MAX_DISKS, MAX_NICS, Definition, Disk, KernelBoot, Nic, stable_mac
from bascule.vm.reader import Table

DEFAULT_CPU = "Nehalem"  # x86-64-v2 and nothing more: TCG and every KVM host of the last twelve years have all of it
DEFAULT_MACHINE = "q35"

_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def parse(text: str, origin: str, new_uuid: str) -> Definition:
    """Read the TOML `text` of the file `origin`. `new_uuid` becomes the VM's if the file gives none.

    Raises `Refused` with one finding for every mistake.
    """
    try:
        values = tomllib.loads(text.removeprefix("\N{BYTE ORDER MARK}"))
    except ValueError as error:  # mostly TOMLDecodeError; also numbers of more digits than Python reads
        raise Refused.from_findings(f"read the VM definition {origin}", [_syntax_finding(str(error))]) from error
    except RecursionError as error:
        finding = Finding("the file", "tables or arrays are nested too deeply", "see the example in the documentation")
        raise Refused.from_findings(f"read the VM definition {origin}", [finding]) from error
    return read(values, origin, rules.UUID.convert(new_uuid))


def read(values: Mapping[str, object], origin: str, new_uuid: str | None, memory_key: str = "memory") -> Definition:
    """Check `values` and build the definition. With `new_uuid` None it is one that was built before: its UUID must be
    among them, and what it does not say is as it was before there was a key for it.

    Raises `Refused` with one finding for every mistake.
    """
    findings: list[Finding] = []
    top = Table(values, findings)
    name = top.require("name", rules.NAME, "")
    uuid = top.require("uuid", rules.UUID, "") if new_uuid is None else top.take("uuid", rules.UUID, new_uuid)
    memory_mib = top.require(memory_key, rules.MEMORY_MIB, 0)
    vcpus = top.take("vcpus", rules.VCPUS, 1)
    cpu = top.take("cpu", rules.CPU, DEFAULT_CPU)
    machine = top.take("machine", rules.MACHINE, DEFAULT_MACHINE)
    accel = top.take("accel", rules.ACCEL, "auto")
    vnc = top.take("vnc", rules.FLAG, False)
    rng = top.take("rng", rules.FLAG, True)
    balloon = top.take("balloon", rules.FLAG, True)
    boot_table = top.table("boot")
    disk_tables = top.tables("disks", MAX_DISKS)
    nic_tables = top.tables("nics", MAX_NICS)
    top.finish()

    if cpu == "host" and accel == "tcg":
        top.mistake("cpu", '"host" hands the host\'s CPU through, which accel = "tcg" cannot', "name a CPU model")
    if values.get("boot") is None and not values.get("disks"):
        top.mistake("boot", "there is nothing to boot from", "add a [boot] table with a kernel, or a [[disks]] table")
    boot = _boot(boot_table, top) if boot_table else None
    disks = _disks(disk_tables, top)
    nics = _nics(nic_tables, top, uuid, vcpus, is_new=new_uuid is not None)
    if findings:
        raise Refused.from_findings(f"read the VM definition {origin}", findings)
    return Definition(
        name, uuid, memory_mib, vcpus, cpu, machine, accel, boot, disks, nics, vnc=vnc, rng=rng, balloon=balloon
    )


def _boot(table: Table, top: Table) -> KernelBoot:
    kernel = table.require("kernel", rules.PATH, "")
    initrd = table.take("initrd", rules.PATH, "")
    command_line = table.take("command_line", rules.KERNEL_COMMAND_LINE, "")
    table.finish(elsewhere=top.known)
    return KernelBoot(kernel, initrd or None, command_line)


def _disks(tables: list[Table], top: Table) -> tuple[Disk, ...]:
    disks: list[Disk] = []
    seen: dict[str, str] = {}
    for table in tables:
        path = table.require("path", rules.PATH, "")
        format_ = table.require("format", rules.DISK_FORMAT, "raw")
        read_only = table.take("read_only", rules.FLAG, False)
        table.finish(elsewhere=top.known)
        _refuse_twice(table, "path", path, seen)
        disks.append(Disk(path, format_, read_only))
    return tuple(disks)


def _nics(tables: list[Table], top: Table, uuid: str, vcpus: int, *, is_new: bool) -> tuple[Nic, ...]:
    given: list[Nic] = []
    seen: dict[str, str] = {}
    for table in tables:
        bridge = table.require("bridge", rules.BRIDGE, "")
        mac = table.take("mac", rules.MAC, "")
        queues = table.take("queues", rules.QUEUES, 1)
        vhost = table.take("vhost", rules.FLAG, is_new)
        udp_segmentation = table.take("udp_segmentation", rules.FLAG, not is_new)
        table.finish(elsewhere=top.known)
        _refuse_twice(table, "mac", mac, seen)
        if queues > vcpus:
            table.mistake("queues", f"{queues} queues are more than the VM has vCPUs", f"allowed: up to {vcpus}")
        given.append(Nic(bridge, mac, queues, vhost, udp_segmentation))
    nics: list[Nic] = []
    taken = set(seen)
    for index, nic in enumerate(given):
        chosen = nic.mac or stable_mac(uuid, index, taken)
        taken.add(chosen)
        nics.append(replace(nic, mac=chosen))
    return tuple(nics)


def _refuse_twice(table: Table, key: str, value: str, seen: dict[str, str]) -> None:
    """Note a finding if an earlier table has the same value; `seen` maps each value to where it was first."""
    if value in seen:
        table.mistake(key, f'"{value}" is used by {seen[value]} already', f"give each its own {key}")
    elif value:
        seen[value] = table.subject(key)


def _syntax_finding(message: str) -> Finding:
    position = _POSITION.search(message)
    if position is None:
        return Finding("the file", f"is not valid TOML: {message}")
    where = f"line {position[1]}, column {position[2]}" if position[1] else "end of the file"
    return Finding(where, f"is not valid TOML: {message[: position.start()]}")
