"""A machine whose kernel has KVM and vhost-net, emulated, with this system's programs and this clone in it.

Labs are built on whatever machine there is, and that may have neither. QEMU's software emulation has AMD's
virtualization extensions, so that Debian's kernel for the lab's guest, booted in it, has both, and is a host: a lab in
it runs its guests under KVM. All is slow, and the figures say nothing.

The machine has one CPU. With two, its kernel died within minutes in two runs (QEMU 10.0.2), of an interrupt right after
a guest had been left. Its root is a read-only image of the system, and all that is written stays in memory.
"""

from __future__ import annotations

import math
import os
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bascule.errors import Refused
from bascule.lab import guest_apt, guest_kernel, guest_packages
from bascule.lab.guest_cpio import Node, archive, character_device, file
from bascule.lab.newer_qemu import lab_qemu
from bascule.lab.patience import VARIABLE
from bascule.lab.places import CACHE
from bascule.qemu.accelerator import BOOT_DIRECTORY
from harness.environment import ROOT

EARLY = ("virtio_pci", "virtio_blk", "squashfs", "overlay")  # for its root
LATE = (
    *("kvm_amd", "vhost_net", "tun", "veth", "bridge", "br_netfilter", "8021q", "dummy", "virtio_rng"),
    *("sch_tbf", "sch_htb", "sch_ingress", "sch_fq_codel", "sch_prio", "cls_u32", "cls_matchall", "cls_flower"),
    "act_mirred",
)
# With VME, which emulation does not have: no guest of ours uses it, and KVM gives it to every model.
CPU = "max,+vme,-vgif,-la57,-pku,-pks,x-force-features=on"
PARTS = (
    *("bin", "sbin", "lib", "lib64", "etc", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/libexec"),
    *(f"usr/share/{name}" for name in ("seabios", "qemu", "dpkg", "perl", "perl5", "zoneinfo", "ca-certificates")),
    *("var/lib/apt", "var/lib/dpkg"),
)
NOT_THERE = (  # large, and no host's
    *(f"usr/lib/{name}" for name in ("debug", "gcc", "jvm", "llvm*", "google-cloud-sdk", "node_modules", "postgresql")),
    *("usr/lib/modules", "usr/lib/firmware", "usr/lib/x86_64-linux-gnu/*.a", "var/lib/dpkg/info"),
)
RESULT_BYTES = 1 << 30
STANDS_STILL_S, LEAST_WORK_S = 60.0, 0.05
COMMAND_LINE = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check"

_INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mkdir -p /proc /dev /ro /rw /new
$B mount -t proc proc /proc
for m in $($B cat /modules/early); do $B insmod /modules/$m.ko; done
$B mount -t devtmpfs dev /dev
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do $B usleep 20000; done
$B mount -t squashfs -o ro /dev/vda /ro
$B mount -t tmpfs -o size=80% tmpfs /rw
$B mkdir /rw/up /rw/work
$B mount -t overlay -o lowerdir=/ro,upperdir=/rw/up,workdir=/rw/work overlay /new
cd /new
$B mkdir -p boot proc sys dev run root tmp result var/tmp var/log modules
$B chmod 1777 tmp var/tmp
$B cp /modules/* modules/
$B cp /boot/* boot/
$B cp /job job
$B mount -t devtmpfs dev dev
$B mkdir -p dev/pts dev/shm
$B mount -t devpts -o ptmxmode=0666 devpts dev/pts
$B mount -t tmpfs tmpfs dev/shm
$B mount -t tmpfs tmpfs run
$B mount -t proc proc proc
$B mount -t sysfs sysfs sys
$B mount -t cgroup2 cgroup sys/fs/cgroup
exec $B switch_root /new /bin/sh /job
"""
_JOB = """export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
for m in $(cat /modules/late); do
    [ -d /sys/module/$m ] || insmod /modules/$m.ko
done
chmod 666 /dev/kvm
hostname emulated
ip link set lo up
stty raw -F /dev/ttyS1
cd {clone}
export RESULT=/result {patience}=10
{command} </dev/null >/dev/ttyS1 2>&1
echo $? >/result/.status
tar cf /dev/vdb -C /result .
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


def run(command: Sequence[str], scratch: Path, *, memory_mib: int, result: Path | None) -> int:
    """Run `command` in the clone's folder there, show what it says, and return its status.

    What it leaves in the folder `$RESULT` comes into `result`. Raises `Refused` if there is no such machine.
    """
    image, initrd, disk = scratch / "root.squashfs", scratch / "initrd", scratch / "result.tar"
    tree = scratch / "packages"
    packages = guest_packages.resolve(CACHE / "packages.json")
    guest_apt.unpack(guest_apt.fetch(packages, CACHE / "packages", print), tree)
    kernel = guest_kernel.kernel(tree)
    initrd.write_bytes(archive(_content(tree, kernel, command)))
    _snapshot(image)
    with disk.open("wb") as empty:
        empty.truncate(RESULT_BYTES)
    log = scratch / "console.log"
    argv = [
        *("setpriv", "--pdeathsig", "KILL", lab_qemu(CACHE, print)),
        *("-M", "q35", "-accel", "tcg,tb-size=1024", "-cpu", CPU, "-smp", "1"),
        *("-m", str(memory_mib), "-nodefaults", "-display", "none", "-no-reboot", "-kernel", str(kernel)),
        *("-initrd", str(initrd), "-append", COMMAND_LINE),
        *("-serial", f"file:{log}", "-serial", "stdio", "-device", "virtio-rng-pci"),
        *("-drive", f"file={image},if=virtio,format=raw,readonly=on"),
        *("-drive", f"file={disk},if=virtio,format=raw"),
    ]
    with (
        (scratch / "qemu.log").open("w") as log_of_qemu,
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=log_of_qemu) as machine,
    ):
        try:
            _wait(machine)
        finally:
            machine.kill()
    return _status(disk, result, log)


def _wait(machine: subprocess.Popen[bytes]) -> None:
    """Until it ends. Raises `Refused` where its processor does nothing any more: seen twice in a dozen runs.

    It halts then and nothing wakes it; a host that waits for something is woken by its timers.
    """
    worked_s = -math.inf
    while machine.poll() is None:
        before_s, worked_s = worked_s, _worked_s(machine.pid)
        if worked_s - before_s < LEAST_WORK_S:
            raise Refused("the emulated host stands still: its processor sleeps for ever", "run it again")
        with suppress(subprocess.TimeoutExpired):
            machine.wait(STANDS_STILL_S)


def _worked_s(pid: int) -> float:
    """How long a process has had a processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")  # proc(5): utime and stime


def _content(tree: Path, kernel: Path, command: Sequence[str]) -> dict[str, Node]:
    job = _JOB.format(clone=shlex.quote(str(ROOT)), command=shlex.join(command), patience=VARIABLE)
    nodes = {
        "bin/busybox": file((tree / "bin/busybox").read_bytes(), executable=True),
        "init": file(_INIT.encode(), executable=True),
        "job": file(job.encode()),
        "dev/console": character_device(5, 1),
        f"{str(BOOT_DIRECTORY).strip('/')}/{kernel.name}": file(kernel.read_bytes()),  # by which its agents prove KVM
    }
    early = guest_kernel.modules(tree, EARLY)
    for name, modules in (("early", early), ("late", guest_kernel.modules(tree, LATE))):
        nodes |= {f"modules/{module}.ko": file(content) for module, content in modules.items()}
        nodes[f"modules/{name}"] = file("".join(f"{module}\n" for module in modules).encode())
    return nodes


def _snapshot(image: Path) -> None:
    """Put this system's programs, the clone and the lab's cache into an image."""
    python = Path(sys.base_prefix)
    own = [ROOT, CACHE, *([] if python.is_relative_to("/usr") else [python])]
    parts = [*(part for part in PARTS if Path("/", part).exists()), *(str(each).lstrip("/") for each in own)]
    options = ("-no-strip", "-noI", "-noD", "-noF", "-noX", "-no-progress", "-quiet", "-wildcards")
    guest_apt.run(
        ["mksquashfs", *parts, str(image), *options, "-e", *NOT_THERE, f"{str(ROOT).lstrip('/')}/.git"],
        cwd="/",
        if_missing="install it: apt-get install squashfs-tools",
    )


def _status(disk: Path, result: Path | None, log: Path) -> int:
    try:
        with tarfile.open(disk) as came:
            inside = came.extractfile("./.status")
            status = int(inside.read()) if inside else None
            if result is not None:
                result.mkdir(parents=True, exist_ok=True)
                came.extractall(result, [each for each in came if each.name != "./.status"], filter="data")
    except (tarfile.TarError, KeyError, ValueError):
        status = None
    if status is None:
        said = log.read_text(errors="replace") if log.exists() else ""
        raise Refused(f"the emulated host ended without a word; its console: {os.linesep}{said[-4000:]}")
    return status
