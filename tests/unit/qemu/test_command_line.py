"""The arguments that two hosts must agree on, and those that each host chooses."""

import json
from dataclasses import replace
from typing import Any

import pytest

from bascule.errors import Refused
from bascule.qemu.command_line import LaunchPaths, build
from bascule.vm.definition import MAX_DISKS, MAX_NICS, Definition, Disk, KernelBoot, Nic

PATHS = LaunchPaths("/run/bascule/web")
FULL = Definition(
    name="web",
    uuid="6f9619ff-8b86-4d01-b42d-00c04fc964ff",
    memory_mib=1024,
    vcpus=2,
    cpu="Nehalem",
    machine="pc-q35-7.2",
    accel="auto",
    boot=KernelBoot("/k", "/i", "console=ttyS0 a,b"),
    disks=(Disk("/srv/a.qcow2", "qcow2"), Disk("/dev/vg/b", "raw", read_only=True)),
    nics=(Nic("br0", "52:54:00:00:00:01"),),
    vnc=True,
)


def argv(definition: Definition = FULL, **changes: Any) -> list[str]:
    values: dict[str, Any] = {
        "binary": "qemu",
        "accelerator": "tcg",
        "paths": PATHS,
        "tap_fds": [[fd] for fd in range(10, 10 + len(definition.nics))],
        "incoming": False,
    }
    return build(definition, **(values | changes))


def options(arguments: list[str], name: str) -> list[str]:
    """The values of every option `name`."""
    return [arguments[index + 1] for index, argument in enumerate(arguments) if argument == name]


def addresses(arguments: list[str]) -> list[str]:
    return [part for value in options(arguments, "-device") for part in value.split(",") if part.startswith("addr=")]


def test_a_nic_of_several_queues() -> None:
    arguments = argv(replace(FULL, vcpus=4, nics=(Nic("br0", "52:54:00:00:00:01", queues=3),)), tap_fds=[[10, 12, 11]])
    assert options(arguments, "-netdev") == ["tap,id=net0,fds=10:12:11,vhost=off"]
    (nic,) = (device for device in options(arguments, "-device") if device.startswith("virtio-net-pci"))
    assert nic.endswith(",mq=on,vectors=8")


def test_a_nic_that_the_kernel_serves_on_hosts_that_can() -> None:
    """What the guest sees of it is the same with and without."""
    nics = (Nic("br0", "52:54:00:00:00:01", vhost=True), Nic("br1", "52:54:00:00:00:02", queues=2, vhost=True))
    definition = replace(FULL, vcpus=2, nics=nics)
    with_it = argv(definition, tap_fds=[[10], [11, 12]], vhost_fds=[[20], [21, 22]])
    assert options(with_it, "-netdev") == [
        "tap,id=net0,fd=10,vhost=on,vhostfd=20",
        "tap,id=net1,fds=11:12,vhost=on,vhostfds=21:22",
    ]
    without = argv(definition, tap_fds=[[10], [11, 12]], vhost_fds=[[], []])
    assert options(without, "-netdev") == ["tap,id=net0,fd=10,vhost=off", "tap,id=net1,fds=11:12,vhost=off"]
    assert options(with_it, "-device") == options(without, "-device")
    cards = [device for device in options(with_it, "-device") if device.startswith("virtio-net-pci")]
    assert all(card.endswith(",queue_reset=off") for card in cards)


def test_queues_that_older_machines_cannot_reset_need_not_be_kept_from_it() -> None:
    """Their QEMU may not know the property."""
    nics = (Nic("br0", "52:54:00:00:00:01", vhost=True),)
    for machine, told in (("pc-q35-6.2", False), ("pc-q35-jammy", False), ("pc-q35-7.2", True), ("pc-q35-noble", True)):
        arguments = argv(replace(FULL, machine=machine, nics=nics))
        assert any("queue_reset" in device for device in options(arguments, "-device")) is told, machine


@pytest.mark.parametrize("machine", ["pc-q35-8.1", "pc-q35-8.2", "pc-i440fx-noble", "pc-q35-jammy"])
def test_a_nic_offers_no_segmentation_of_udp_that_older_kernels_lack(machine: str) -> None:
    """Nor are machines told of it whose QEMU may not know the property, and which do not offer it."""
    off = ",host_uso=off,guest_uso4=off,guest_uso6=off"
    nics = (Nic("br0", "52:54:00:00:00:01", udp_segmentation=False), Nic("br0", "52:54:00:00:00:02"))
    arguments = argv(replace(FULL, machine=machine, nics=nics))
    cards = [device for device in options(arguments, "-device") if device.startswith("virtio-net-pci")]
    assert [card.endswith(off) for card in cards] == [machine in {"pc-q35-8.2", "pc-i440fx-noble"}, False]
    assert not any("uso" in card.removesuffix(off) for card in cards)


def test_every_argument() -> None:
    # Guest-visible arguments of an existing definition must never change: agents of two versions move VMs.
    storage = '"discard": "unmap", "cache": {"direct": true, "no-flush": false}}'
    assert argv() == [
        "qemu",
        *("-name", "guest=web,debug-threads=on"),
        *("-uuid", "6f9619ff-8b86-4d01-b42d-00c04fc964ff"),
        *("-no-user-config", "-nodefaults", "-msg", "timestamp=on", "-pidfile", "/run/bascule/web/qemu.pid"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-machine", "pc-q35-7.2,vmport=off,dump-guest-core=off"),
        *("-accel", "tcg"),
        *("-cpu", "Nehalem,enforce=on"),
        *("-smp", "cpus=2,sockets=1,cores=2,threads=1,maxcpus=2"),
        *("-m", "size=1048568K"),
        *("-rtc", "base=utc"),
        *("-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1"),
        *("-boot", "strict=on", "-kernel", "/k", "-initrd", "/i", "-append", "console=ttyS0 a,b"),
        *("-chardev", "socket,id=qmp,path=/run/bascule/web/qmp.sock,server=on,wait=on"),
        *("-mon", "chardev=qmp,mode=control"),
        "-chardev",
        "socket,id=serial0,path=/run/bascule/web/serial.sock,server=on,wait=off,"
        "logfile=/run/bascule/web/serial.log,logappend=on",
        *("-device", "isa-serial,id=console0,chardev=serial0,index=0"),
        *("-display", "none"),
        *("-vnc", "unix:/run/bascule/web/vnc.sock"),
        *("-device", "VGA,id=vga0,bus=pcie.0,addr=02.0,romsize=65536"),
        *("-object", "rng-builtin,id=random0"),
        *("-device", "virtio-rng-pci,id=rng0,rng=random0,bus=pcie.0,addr=03.0"),
        *("-device", "virtio-balloon-pci,id=balloon0,deflate-on-oom=on,bus=pcie.0,addr=04.0"),
        "-blockdev",
        '{"driver": "qcow2", "node-name": "disk0", "file": {"driver": "file", "node-name": "disk0-storage", '
        '"filename": "/srv/a.qcow2", "aio": "threads", "locking": "on", "read-only": false, '
        f'{storage}, "read-only": false, {storage}',
        *("-device", "virtio-blk-pci,id=disk0-device,drive=disk0,serial=disk0,bus=pcie.0,addr=10.0"),
        "-blockdev",
        '{"driver": "raw", "node-name": "disk1", "file": {"driver": "host_device", "node-name": "disk1-storage", '
        '"filename": "/dev/vg/b", "aio": "threads", "locking": "on", "read-only": true, '
        f'{storage}, "read-only": true, {storage}',
        *("-device", "virtio-blk-pci,id=disk1-device,drive=disk1,serial=disk1,bus=pcie.0,addr=11.0"),
        *("-netdev", "tap,id=net0,fd=10,vhost=off"),
        *("-device", "virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,romfile=,bus=pcie.0,addr=18.0"),
        "-S",
    ]


def test_sides_differ_only_in_incoming() -> None:
    assert argv(incoming=True) == [*argv(), "-incoming", "defer"]


def test_pc_has_the_same_addresses_on_its_own_bus() -> None:
    pc = argv(replace(FULL, machine="pc-i440fx-7.2"))
    assert addresses(pc) == addresses(argv())
    assert all("bus=pci.0" in value for value in options(pc, "-device") if "addr=" in value)
    assert options(pc, "-global") == ["PIIX4_PM.disable_s3=1", "PIIX4_PM.disable_s4=1"]


def test_devices_that_come_or_go_move_no_other() -> None:
    bare = replace(FULL, vnc=False, rng=False, balloon=False)
    assert addresses(argv(bare)) == addresses(argv())[3:]
    more = replace(FULL, disks=(*FULL.disks, Disk("/c", "raw")), nics=(*FULL.nics, Nic("b", "52:54:00:00:00:02")))
    assert set(addresses(argv())) < set(addresses(argv(more)))


def test_as_many_devices_as_a_definition_may_have() -> None:
    disks = tuple(Disk(f"/{n}", "raw") for n in range(MAX_DISKS))
    nics = tuple(Nic("b", f"52:54:00:00:00:{n:02x}") for n in range(MAX_NICS))
    arguments = argv(replace(FULL, disks=disks, nics=nics))
    found = addresses(arguments)
    assert len(found) == len(set(found)) == 3 + MAX_DISKS + MAX_NICS
    assert not {"addr=00.0", "addr=01.0", "addr=1f.0"} & set(found)
    assert found[-1] == "addr=1e.7"
    # The guest scans further functions only where function 0 announces them.
    shared = [value for value in options(arguments, "-device") if "multifunction=on" in value]
    assert len(shared) == 8 + 7
    assert all(",addr=" in value and ".0," in value for value in shared)


def test_only_slots_with_more_than_one_function_announce_it() -> None:
    disks = tuple(Disk(f"/{n}", "raw") for n in range(9))
    arguments = argv(replace(FULL, disks=disks))
    (shared,) = [value for value in options(arguments, "-device") if "multifunction=on" in value]
    assert "addr=10.0" in shared


def test_boot_from_the_first_disk_speaks_on_the_serial_console() -> None:
    definition = replace(FULL, boot=None, vnc=False)
    arguments = argv(definition)
    (boots,) = [value for value in options(arguments, "-device") if "bootindex" in value]
    assert boots.startswith("virtio-blk-pci,id=disk0-device,")
    assert options(arguments, "-machine")[0].endswith(",graphics=off")
    assert "-kernel" not in arguments
    assert "graphics=off" not in " ".join(argv(replace(definition, vnc=True)))


@pytest.mark.parametrize(
    ("cpu", "accelerator", "argument"),
    [
        ("host", "kvm", "host,migratable=on"),
        ("max", "tcg", "max,migratable=on"),
        ("EPYC", "kvm", "EPYC,enforce=on"),
    ],
)
def test_cpu(cpu: str, accelerator: str, argument: str) -> None:
    arguments = argv(replace(FULL, cpu=cpu), accelerator=accelerator)
    assert options(arguments, "-cpu") == [argument]
    assert options(arguments, "-accel") == [accelerator]


def test_paths_with_commas_and_quotes() -> None:
    definition = replace(FULL, disks=(Disk('/srv/a,"b".raw', "raw"),))
    arguments = argv(definition, paths=LaunchPaths("/run/a,b"))
    assert "path=/run/a,,b/qmp.sock," in options(arguments, "-chardev")[0]
    assert options(arguments, "-vnc") == ["unix:/run/a,,b/vnc.sock"]
    assert options(arguments, "-pidfile") == ["/run/a,b/qemu.pid"]
    assert json.loads(options(arguments, "-blockdev")[0])["file"]["filename"] == '/srv/a,"b".raw'


def test_buffered_disks_change_nothing_else() -> None:
    usual, buffered = argv(), argv(buffered_disks={"/srv/a.qcow2"})
    changed = [(a, b) for a, b in zip(usual, buffered, strict=True) if a != b]
    ((before, after),) = changed
    assert after == before.replace('"direct": true', '"direct": false')


def test_shared_memory_is_no_device() -> None:
    arguments = argv(replace(FULL, disks=(Disk("/dev/shm/a", "raw"),)))
    assert json.loads(options(arguments, "-blockdev")[0])["file"]["driver"] == "file"


def test_without_sandbox() -> None:
    assert "-sandbox" not in argv(user_sandbox=False)


def test_refusals() -> None:
    with pytest.raises(Refused, match='cpu = "host" needs KVM'):
        argv(replace(FULL, cpu="host"))
    with pytest.raises(Refused, match="longer than the 107 bytes"):
        argv(paths=LaunchPaths("/" + "ä" * 50))
    with pytest.raises(ValueError, match="machine q35 of VM web is not pinned"):
        argv(replace(FULL, machine="q35"))
    with pytest.raises(ValueError, match="has 1 NICs, but 0 taps"):
        argv(tap_fds=[])
    with pytest.raises(ValueError, match="a NIC of 1 queues, but 2 were given"):
        argv(tap_fds=[[10, 11]])
    with pytest.raises(ValueError, match="but 1 were given, and 1 of vhost-net"):
        argv(vhost_fds=[[20]])
