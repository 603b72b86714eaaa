"""A VM's definition turned into QEMU's arguments. Pure.

A migration succeeds only between two equal machines, so the guest-visible part of these arguments depends on the
definition alone: not on the host, the QEMU version, or whether the VM is coming in. It must never change for an
existing definition either, because the two agents may be of different versions: what is new needs a new key in the
definition. Every device has its PCI address, on the root bus of either chipset (slot.function):

    00       host bridge
    01       pc: ISA bridge, IDE, power management; q35: free
    02       graphics, with VNC only
    03       random numbers
    04       balloon
    05 - 07  free, for devices that a VM has once
    08 - 0f  free, for bridges to further buses
    10 - 17  disks: disk n in slot 10 + n % 8, function n / 8
    18 - 1e  NICs:  NIC n in slot 18 + n % 7, function n / 7
    1f       q35: ISA bridge, SATA, SMBus; pc: free

What was chosen, and why:

- A guest that powers itself off ends QEMU (no `-no-shutdown`), also while no agent runs. Sleep states are off: a
  guest that sleeps could be woken by nobody, and moved by nobody.
- Named CPU models are enforced. Otherwise QEMU leaves out silently what a host lacks, and the two sides differ.
- No option ROM of a version that the host happens to have: NICs get none, graphics a fixed size for its own. The
  size of a ROM is part of the migrated state.
- Disks bypass the host's page cache (`cache.direct`): on shared storage the destination must not read pages that it
  cached earlier, and the flush at the switchover must not have a page cache to write out. File systems without
  O_DIRECT are named by the caller in `buffered_disks`; that is safe too, because QEMU flushes when the source hands
  over and drops the cached pages when the destination takes over, only slower. The guest sees no difference.
- `aio=threads` works on every storage and in the sandbox; `locking=on` rather than `auto`, since the image's lock is
  the second guard against two running copies, and must not be skipped silently.
- Which blocks the destination may touch before it runs is a migration capability (late-block-activate).
- Who serves a NIC, QEMU or the kernel's vhost-net, is the host's affair, and a VM moves between both. What vhost-net
  does not offer on every kernel, resetting a single queue (Linux 6.2), a NIC that it may serve does not have at all:
  a feature that the guest has taken must be there on every host. Nor does a NIC cut UDP into packets, unless its
  definition says so: a tap can since Linux 6.2, and QEMU offers it to the guest wherever the tap can.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from bascule.errors import Refused
from bascule.vm.definition import Definition, Disk, is_versioned, machine_version

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_MAX_SOCKET_PATH_BYTES = 107  # sun_path of a Unix socket's address, with its closing NUL
_VGA_ROM_BYTES = 64 * 1024

_VGA_ADDRESS = "02.0"
_RNG_ADDRESS = "03.0"
_BALLOON_ADDRESS = "04.0"
_DISK_SLOTS = range(0x10, 0x18)
_NIC_SLOTS = range(0x18, 0x1F)

TCG_MEMORY_GAP_KIB = 8
FIRST_WITHOUT_TCG_TRAP = (9, 0)
FIRST_WITH_QUEUE_RESET = (7, 2)
FIRST_WITH_UDP_SEGMENTATION = (8, 2)


@dataclass(frozen=True, slots=True)
class LaunchPaths:
    """The files of one QEMU process, all in the `directory` that only its user can enter."""

    directory: str

    @property
    def qmp(self) -> str:
        """The monitor's socket."""
        return f"{self.directory}/qmp.sock"

    @property
    def serial(self) -> str:
        """The serial console's socket, for one client at a time."""
        return f"{self.directory}/serial.sock"

    @property
    def serial_log(self) -> str:
        """All that the guest wrote to its serial console. Opened for appending, so it may be truncated any time."""
        return f"{self.directory}/serial.log"

    @property
    def vnc(self) -> str:
        """The VNC server's socket, for VMs that ask for one."""
        return f"{self.directory}/vnc.sock"

    @property
    def pidfile(self) -> str:
        """Names the process as this directory's, for an agent that died before it wrote the process down."""
        return f"{self.directory}/qemu.pid"

    @property
    def log(self) -> str:
        """QEMU's own stdout and stderr."""
        return f"{self.directory}/qemu.log"


def build(
    definition: Definition,
    *,
    binary: str,
    accelerator: Literal["kvm", "tcg"],
    paths: LaunchPaths,
    tap_fds: Sequence[Sequence[int]],
    incoming: bool,
    vhost_fds: Sequence[Sequence[int]] | None = None,
    user_sandbox: bool = True,
    buffered_disks: Collection[str] = (),
) -> list[str]:
    """The arguments, QEMU's `binary` first, of a QEMU that lets nothing run (`-S`) before it is told to.

    `tap_fds` are the descriptors of the NICs' taps, in order, one for each queue, which QEMU inherits. With `incoming`,
    QEMU waits for `migrate-incoming`. `vhost_fds`: as `tap_fds`, descriptors of the vhost-net that serves the queues of
    a NIC; none where QEMU does. `buffered_disks` are the paths of disks where O_DIRECT is impossible.

    Raises `Refused` if this VM cannot be built so on this host, and ValueError for a machine that is no versioned
    type or a wrong number of taps or queues.
    """
    if not is_versioned(definition.machine):
        raise ValueError(f"machine {definition.machine} of VM {definition.name} is not pinned to a version")
    if len(tap_fds) != len(definition.nics):
        raise ValueError(f"VM {definition.name} has {len(definition.nics)} NICs, but {len(tap_fds)} taps were given")
    served = vhost_fds or [()] * len(definition.nics)
    for nic, fds, vhost in zip(definition.nics, tap_fds, served, strict=True):
        if len(fds) != nic.queues or len(vhost) not in ({0, nic.queues} if nic.vhost else {0}):
            raise ValueError(
                f"VM {definition.name} has a NIC of {nic.queues} queues, but {len(fds)} were given, and {len(vhost)}"
                " of vhost-net"
            )
    if definition.cpu == "host" and accelerator != "kvm":
        raise Refused(
            f'cannot build VM {definition.name}: cpu = "host" needs KVM, and it would run with {accelerator}',
            "name a CPU model in its definition, or run it on a host with KVM",
        )
    _check_socket_paths(definition.name, paths)
    argv = [binary, "-name", f"guest={definition.name},debug-threads=on", "-uuid", definition.uuid]
    argv += ["-no-user-config", "-nodefaults", "-msg", "timestamp=on", "-pidfile", paths.pidfile]
    argv += ["-sandbox", SANDBOX] if user_sandbox else []
    argv += _machine(definition, accelerator) + _boot(definition) + _consoles(definition, paths)
    bus = "pcie.0" if definition.chipset == "q35" else "pci.0"
    argv += _helpers(definition, bus)
    for index, disk in enumerate(definition.disks):
        boots = index == 0 and definition.boot is None
        argv += _disk(disk, index, len(definition.disks), bus, boots=boots, direct=disk.path not in buffered_disks)
    for index, (fds, vhost) in enumerate(zip(tap_fds, served, strict=True)):
        argv += _nic(definition, index, bus, fds, vhost)
    return argv + ["-S"] + (["-incoming", "defer"] if incoming else [])


def pci_address(slots: range, index: int) -> str:
    """The address of device `index` of its kind: each gets a slot of its own while there are slots."""
    return f"{slots[index % len(slots)]:02x}.{index // len(slots)}"


def _machine(definition: Definition, accelerator: str) -> list[str]:
    # Without a screen, the firmware and the boot loader on a disk talk to the serial console.
    screen = "" if definition.vnc or definition.boot else ",graphics=off"
    cpu = f"{definition.cpu},{'migratable' if definition.cpu in {'host', 'max'} else 'enforce'}=on"
    power = "ICH9-LPC" if definition.chipset == "q35" else "PIIX4_PM"
    return [
        *("-machine", f"{definition.machine},vmport=off,dump-guest-core=off{screen}"),
        *("-accel", accelerator),
        *("-cpu", cpu),
        *("-smp", f"cpus={definition.vcpus},sockets=1,cores={definition.vcpus},threads=1,maxcpus={definition.vcpus}"),
        *("-m", f"size={_memory_kib(definition, accelerator)}K"),
        *("-rtc", "base=utc"),
        *("-global", f"{power}.disable_s3=1", "-global", f"{power}.disable_s4=1"),
    ]


def _memory_kib(definition: Definition, accelerator: str) -> int:
    """The guest's memory; under TCG with an older machine type 8 KiB less than defined, to keep it whole in a move.

    QEMU before 9.0 forgets, when it counts dirty pages of a RAM block whose length is a multiple of 256 KiB, to make
    TCG notice the next write to them: writes are lost and the guest arrives with stale pages (seen on 7.2 as kernel
    panics after a move; mended in QEMU by "physmem: Fix migration dirty bitmap coherency with TCG memory access").
    A block of another length is counted page by page, which is slower and right. The machine type decides, and not the
    QEMU at hand, because both sides have to build the same machine; no QEMU before 9.0 knows the machine types of 9.0.
    """
    trap = accelerator == "tcg" and machine_version(definition.machine) < FIRST_WITHOUT_TCG_TRAP
    return definition.memory_mib * 1024 - (TCG_MEMORY_GAP_KIB if trap else 0)


def _boot(definition: Definition) -> list[str]:
    boot = definition.boot
    if boot is None:
        return ["-boot", "strict=on"]
    argv = ["-boot", "strict=on", "-kernel", boot.kernel]
    argv += ["-initrd", boot.initrd] if boot.initrd else []
    return argv + (["-append", boot.command_line] if boot.command_line else [])


def _consoles(definition: Definition, paths: LaunchPaths) -> list[str]:
    serial = f"path={_escaped(paths.serial)},server=on,wait=off,logfile={_escaped(paths.serial_log)},logappend=on"
    argv = [
        *monitor(paths.qmp),
        *("-chardev", f"socket,id=serial0,{serial}"),
        *("-device", "isa-serial,id=console0,chardev=serial0,index=0"),
        *("-display", "none"),
    ]
    if not definition.vnc:
        return argv
    bus = "pcie.0" if definition.chipset == "q35" else "pci.0"
    vga = f"VGA,id=vga0,bus={bus},addr={_VGA_ADDRESS},romsize={_VGA_ROM_BYTES}"
    return [*argv, "-vnc", f"unix:{_escaped(paths.vnc)}", "-device", vga]


def _helpers(definition: Definition, bus: str) -> list[str]:
    argv: list[str] = []
    if definition.rng:
        # rng-builtin is getrandom(2): as good as /dev/urandom, and no file to open.
        argv += ["-object", "rng-builtin,id=random0"]
        argv += ["-device", f"virtio-rng-pci,id=rng0,rng=random0,bus={bus},addr={_RNG_ADDRESS}"]
    if definition.balloon:
        argv += ["-device", f"virtio-balloon-pci,id=balloon0,deflate-on-oom=on,bus={bus},addr={_BALLOON_ADDRESS}"]
    return argv


def _disk(disk: Disk, index: int, count: int, bus: str, *, boots: bool, direct: bool) -> list[str]:
    common = {"read-only": disk.read_only, "discard": "unmap", "cache": {"direct": direct, "no-flush": False}}
    is_device = disk.path.startswith("/dev/") and not disk.path.startswith("/dev/shm/")  # noqa: S108 - compared only
    protocol = {
        "driver": "host_device" if is_device else "file",
        "node-name": f"disk{index}-storage",
        "filename": disk.path,
        "aio": "threads",
        "locking": "on",
        **common,
    }
    node = {"driver": disk.format, "node-name": f"disk{index}", "file": protocol, **common}
    device = f"virtio-blk-pci,id=disk{index}-device,drive=disk{index},serial=disk{index}"
    device += f",{_place(_DISK_SLOTS, index, count, bus)}" + (",bootindex=1" if boots else "")
    return ["-blockdev", json.dumps(node), "-device", device]


def _nic(definition: Definition, index: int, bus: str, fds: Sequence[int], vhost: Sequence[int]) -> list[str]:
    nic = definition.nics[index]
    device = f"virtio-net-pci,id=nic{index},netdev=net{index},mac={nic.mac},romfile="
    device += f",{_place(_NIC_SLOTS, index, len(definition.nics), bus)}"
    if nic.queues > 1:
        # An interrupt for each queue, one for the control queue and one for changes of the configuration.
        device += f",mq=on,vectors={2 * nic.queues + 2}"
    if nic.vhost and machine_version(definition.machine) >= FIRST_WITH_QUEUE_RESET:
        device += ",queue_reset=off"
    if not nic.udp_segmentation and machine_version(definition.machine) >= FIRST_WITH_UDP_SEGMENTATION:
        device += ",host_uso=off,guest_uso4=off,guest_uso6=off"
    server = f"vhost=on,{_descriptors('vhostfd', vhost)}" if vhost else "vhost=off"
    return ["-netdev", f"tap,id=net{index},{_descriptors('fd', fds)},{server}", "-device", device]


def _descriptors(option: str, fds: Sequence[int]) -> str:
    return f"{option}={fds[0]}" if len(fds) == 1 else f"{option}s={':'.join(map(str, fds))}"


def _place(slots: range, index: int, count: int, bus: str) -> str:
    # Only function 0 says that its slot has more functions; without that the guest would not look for them.
    shared = index < len(slots) and index + len(slots) < count
    return f"bus={bus},addr={pci_address(slots, index)}" + (",multifunction=on" if shared else "")


def _check_socket_paths(name: str, paths: LaunchPaths) -> None:
    longest = max((paths.qmp, paths.serial, paths.vnc), key=len)
    if len(longest.encode()) > _MAX_SOCKET_PATH_BYTES:
        raise Refused(
            f"cannot build VM {name}: {longest} is longer than the {_MAX_SOCKET_PATH_BYTES} bytes of a socket's path",
            "choose a shorter name for the VM, or a shorter runtime_directory for the agent",
        )


def monitor(path: str) -> list[str]:
    """The arguments for QEMU's monitor: a socket at `path`, at which QEMU waits for its first client as it starts.

    One that does not wait is not safe to connect to while QEMU starts: its main thread may wait for another client for
    ever, or the client is greeted twice (seen with QEMU 10.0.2, three times in 8,000 starts on busy processors),
    supposedly because QEMU moves the socket to the monitor's thread meanwhile, and both take the client.
    """
    return ["-chardev", f"socket,id=qmp,path={_escaped(path)},server=on,wait=on", "-mon", "chardev=qmp,mode=control"]


def _escaped(value: str) -> str:
    """A value in one of QEMU's comma-separated options."""
    return value.replace(",", ",,")
