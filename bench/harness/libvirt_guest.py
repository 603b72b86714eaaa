"""The real `virsh migrate --live`: two libvirtd in two of the lab's hosts, each with files of its own.

Each libvirtd runs in a mount namespace where the folders that it writes to lie in the lab's directory, so that neither
the machine's libvirt, if it runs, nor the other one's is touched, and in a process namespace, with which everything
that it started ends, however the bench ends. QEMU is the lab's; the guest has the same kernel,
memory, processor, NIC and bridge. Nothing of libvirt's migration is configured: no TLS, no bandwidth, no post-copy.
What is configured, the domain's XML and what libvirt says its limits are, is in `settings`, for the page.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from bascule.errors import Failed
from bascule.lab.guest_vm import GuestVm
from bascule.lab.laboratory import Lab
from bascule.vm.definition import pin_machine
from bascule.vm.parse import parse
from harness.carers import HOSTS, Moved, other
from harness.qmp_guest import UUID, machine_aliases

_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
HOST_UUIDS = {"h1": "00000000-0000-4000-8000-0000000000a1", "h2": "00000000-0000-4000-8000-0000000000a2"}
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--")
CACHE = "/var/cache/libvirt"  # what QEMU can, by its probe; kept from one guest to the next
PRIVATE = ("/run/libvirt", "/etc/libvirt", "/var/lib/libvirt", CACHE, "/var/log/libvirt")
START_S = 20.0
MOVE_S = 60.0
ANSWER_S = 20.0
_EVENT = re.compile(r"event (\w+) at (\d+)\.(\d+)")


def missing() -> str:
    """Say why the real virsh cannot be run here; empty when it can."""
    wanted = [name for name in ("libvirtd", "virsh", "unshare", "stdbuf") if shutil.which(name, path=_PATH) is None]
    return f"{', '.join(wanted)} not installed" if wanted else ""


class LibvirtGuest:
    """The guest under libvirt. Use `with`: no libvirtd, no QEMU and no file of it is left."""

    def __init__(self, lab: Lab, guest: GuestVm, binary: str) -> None:
        self.lab, self.guest = lab, guest
        self._binary = binary
        self._host = HOSTS[0]
        self.settings: dict[str, str] = {}
        self._runs = False
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._listeners: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> LibvirtGuest:
        try:
            for host in HOSTS:
                self._daemons[host] = self._start(host)
            for host in HOSTS:
                self._wait(host)
        except BaseException:
            self._end_daemons()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end()
        finally:
            self._end_daemons()

    def boot(self) -> None:
        console = self._folder(HOSTS[0]) / "console.log"
        domain = self._folder(HOSTS[0]) / "domain.xml"
        console.unlink(missing_ok=True)
        domain.write_text(self._xml(console))
        self._host, self._runs = HOSTS[0], True
        self._virsh(HOSTS[0], "create", str(domain))
        self.settings = self._settings(domain.read_text())
        for host in HOSTS:
            self._listeners[host] = self._listen(host)
        self.guest.wait_ready(console)

    def move(self) -> Moved:
        """Move it by `virsh migrate --live`; the blackout is from QEMU's own events, which virsh prints."""
        source, target = self._host, other(self._host)
        heard = {host: self._events_file(host).stat().st_size for host in HOSTS}
        to = f"tcp://{self.lab.host(target).address}"
        begin_ns = time.monotonic_ns()
        done = self._run(source, "migrate", "--live", self.guest.name, self._uri(target), to, timeout_s=MOVE_S)
        end_ns = time.monotonic_ns()
        if done.returncode != 0:
            return Moved("failed", done.stderr.strip(), begin_ns, end_ns)
        self._host = target
        stop_us, resume_us = self._at_us(source, "STOP", heard[source]), self._at_us(target, "RESUME", heard[target])
        return Moved(
            "completed",
            "",
            begin_ns,
            end_ns,
            total_s=(end_ns - begin_ns) / 1e9,
            blackout_ms=(resume_us - stop_us) / 1000,
        )

    def end(self) -> None:
        if self._runs:
            self._runs = False
            self._run(self._host, "destroy", self.guest.name)
        for listener in self._listeners.values():
            listener.terminate()
            listener.wait()
        self._listeners.clear()

    def version(self) -> str:
        """The version of libvirt."""
        return self._run(HOSTS[0], "--version").stdout.strip()

    def _settings(self, domain: str) -> dict[str, str]:
        """Return everything that was set, and what libvirt itself says of it, by what it is."""
        says = [("version",), ("migrate-getspeed", self.guest.name), ("migrate-getmaxdowntime", self.guest.name)]
        said = "".join(f"# virsh {' '.join(words)}\n{self._virsh(HOSTS[0], *words).strip()}\n" for words in says)
        files = {"domain.xml": domain, **self._configuration(HOSTS[0]), "what libvirt says": said}
        return {name: text.replace(str(self.lab.places.directory), "LAB") for name, text in files.items()}

    def _folder(self, host: str) -> Path:
        folder = self.lab.places.directory / f"libvirt-{host}"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        return folder

    def _start(self, host: str) -> subprocess.Popen[bytes]:
        """Start a libvirtd that keeps its hands off the machine's own, in namespaces for mounts and processes.

        The first process of the process namespace is a shell that collects whatever ends: libvirt waits up to 15 s for
        a QEMU that it ended and that nobody collected. When that shell ends, the kernel ends everything else in there.
        """
        folder = self._folder(host)
        (folder / "libvirt-sock").unlink(missing_ok=True)
        # Without the system's /run there is no D-Bus: nothing is asked of the machine's systemd or firewall either.
        lines = ["mount -t tmpfs -o mode=755 none /run"]
        for path in PRIVATE:
            own = folder / path.strip("/").replace("/", "-")
            if path != CACHE:
                shutil.rmtree(own, ignore_errors=True)  # of the guest before
            own.mkdir(exist_ok=True)
            lines.append(f"mkdir -p {path}; mount --bind {shlex.quote(str(own))} {path}")
        lines += [f"mount --bind {shlex.quote(str(own))} {shlex.quote(str(usual))}" for own, usual in self._installed()]
        # All guests of the lab are emulated, and a KVM that opens but does not work ends the QEMU that libvirt asks.
        lines.append("[ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm")
        etc = folder / "etc-libvirt"
        for name, text in self._configuration(host).items():
            (etc / name).write_text(text)
        lines += ["libvirtd --config /etc/libvirt/libvirtd.conf &", "wait $!"]
        with (folder / "libvirtd.log").open("wb") as log:
            return self.lab.popen(
                host,
                [*NAMESPACES, "sh", "-ec", "\n".join(lines)],
                env={"PATH": _PATH},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _configuration(self, host: str) -> dict[str, str]:
        """Return libvirt's own files: where it listens, and that root may do what root does."""
        return {
            "libvirtd.conf": f'host_uuid = "{HOST_UUIDS[host]}"\nunix_sock_dir = "{self._folder(host)}"\n'
            'auth_unix_rw = "none"\n',
            "qemu.conf": 'security_driver = "none"\nuser = "root"\ngroup = "root"\ncgroup_controllers = []\n'
            'namespaces = []\nstdio_handler = "file"\nremember_owner = 0\n',
        }

    def _installed(self) -> list[tuple[Path, Path]]:
        """Return what of the cache's QEMU is laid over the system's, as if it were installed: programs and modules.

        Debian's QEMU looks for its modules in `/usr/lib` wherever it lies itself. Guests need none, but libvirt's probe
        has all of them loaded (`qom-list-types`): those of another version end QEMU by an assertion, and libvirt says
        "Unable to read from monitor". Programs too, since libvirt probes the system's as well.
        """
        prefix, usr = Path(self._emulator()).parents[1], Path("/usr")
        if prefix == usr:
            return []
        own = [*prefix.glob("bin/qemu-system-*"), *prefix.glob("lib/*/qemu")]
        pairs = [(path, usr / path.relative_to(prefix)) for path in own]
        return [(path, usual) for path, usual in pairs if usual.exists()]

    def _wait(self, host: str) -> None:
        deadline = time.monotonic() + START_S
        while self._daemons[host].poll() is None and time.monotonic() < deadline:
            if (self._folder(host) / "libvirt-sock").exists() and self._run(host, "version").returncode == 0:
                return
            time.sleep(0.05)
        raise Failed(f"libvirtd of {host} did not start: {(self._folder(host) / 'libvirtd.log').read_text()[-500:]}")

    def _end_daemons(self) -> None:
        """End each libvirtd with its namespace. `unshare` is gone only when all processes in there are."""
        for daemon in self._daemons.values():
            with suppress(FileNotFoundError, ProcessLookupError):
                for child in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    def _uri(self, host: str) -> str:
        return f"qemu+unix:///system?socket={self._folder(host)}/libvirt-sock"

    def _run(self, host: str, *words: str, timeout_s: float = ANSWER_S) -> subprocess.CompletedProcess[str]:
        try:
            return self.lab.run(host, ["virsh", "--connect", self._uri(host), *words], timeout_s=timeout_s)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"virsh {words[0]} did not end within {timeout_s:g} s") from late

    def _virsh(self, host: str, *words: str) -> str:
        done = self._run(host, *words)
        if done.returncode != 0:
            raise Failed(f"virsh {words[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def _events_file(self, host: str) -> Path:
        return self._folder(host) / "events"

    def _listen(self, host: str) -> subprocess.Popen[bytes]:
        """Write QEMU's events, with QEMU's own times, into a file."""
        argv = ["stdbuf", "-oL", "virsh", "--connect", self._uri(host), "qemu-monitor-event", "--loop"]
        with self._events_file(host).open("wb") as file:
            return self.lab.popen(host, argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def _at_us(self, host: str, name: str, since: int) -> int:
        """Return when an event came, of those written since a place in the file; it may be written a moment later."""
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            text = self._events_file(host).read_bytes()[since:].decode(errors="replace")
            for event, seconds, micros in _EVENT.findall(text):
                if event == name:
                    return int(seconds) * 10**6 + int(micros)
            with suppress(subprocess.TimeoutExpired):
                self._listeners[host].wait(0.02)
        raise Failed(f"virsh told of no event {name} on {host}")

    def _xml(self, console: Path) -> str:
        definition = pin_machine(parse(self.guest.definition(self.lab), "bench", UUID), machine_aliases(self._binary))
        boot, nic = definition.boot, definition.nics[0]
        assert boot is not None
        return f"""<domain type='qemu'>
  <name>{escape(definition.name)}</name>
  <uuid>{definition.uuid}</uuid>
  <memory unit='MiB'>{definition.memory_mib}</memory>
  <vcpu>{definition.vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine={quoteattr(definition.machine)}>hvm</type>
    <kernel>{escape(boot.kernel)}</kernel>
    <initrd>{escape(boot.initrd or "")}</initrd>
    <cmdline>{escape(boot.command_line)}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model>{escape(definition.cpu)}</model></cpu>
  <on_poweroff>destroy</on_poweroff>
  <devices>
    <emulator>{escape(str(self._emulator_inside()))}</emulator>
    <controller type='usb' model='none'/>
    <interface type='bridge'>
      <source bridge={quoteattr(nic.bridge)}/>
      <mac address={quoteattr(nic.mac)}/>
      <model type='virtio'/>
      <driver name='qemu'/>
      <rom enabled='no'/>
    </interface>
    <serial type='file'><source path={quoteattr(str(console))}/></serial>
    <memballoon model='virtio'/>
    <rng model='virtio'><backend model='builtin'/></rng>
  </devices>
</domain>
"""

    def _emulator_inside(self) -> str:
        """Return the same program where libvirt has probed it already."""
        found = {str(own): str(usual) for own, usual in self._installed()}
        return found.get(self._emulator(), self._emulator())

    def _emulator(self) -> str:
        return self._binary if self._binary.startswith("/") else str(shutil.which(self._binary))
