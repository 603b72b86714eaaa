"""The guest, booted by a QEMU of its own with QEMU's user-mode network."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bascule.lab import guest_sequence
from bascule.lab.guest_image import GuestImage
from bascule.lab.guest_options import GuestOptions

pytestmark = pytest.mark.lab

DEADLINE_S = 120  # a hang is what this is for: the machine may be busy
ADDRESS = "10.0.2.15/24"  # as QEMU's user-mode network has it


class Guest:
    """A QEMU with the guest in it; its services are on ports of 127.0.0.1."""

    def __init__(self, image: GuestImage, folder: Path, options: GuestOptions, extra: tuple[str, ...] = ()) -> None:
        self.console_log = folder / "console.log"
        self._folder = folder
        self.echo, self.http = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
        forwards = [f"udp:{self.echo[0]}:{self.echo[1]}-:7", f"tcp:{self.echo[0]}:{self.echo[1]}-:7"]
        forwards.append(f"tcp:{self.http[0]}:{self.http[1]}-:80")
        command = ["qemu-system-x86_64", "-accel", "tcg", "-m", "256", "-nodefaults", "-no-user-config"]
        command += ["-display", "none", "-kernel", image.kernel, "-initrd", image.initrd]
        command += ["-append", options.command_line()]
        command += ["-netdev", "user,id=net0," + ",".join(f"hostfwd={forward}" for forward in forwards)]
        command += ["-device", "virtio-net-pci,netdev=net0"]
        command += [
            "-chardev",
            f"socket,id=console,path={folder}/console,server=on,wait=off,logfile={self.console_log}",
        ]
        command += ["-serial", "chardev:console", "-qmp", f"unix:{folder}/qmp,server=on,wait=off", *extra]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def console(self) -> str:
        return self.console_log.read_text(errors="replace") if self.console_log.exists() else ""

    def wait(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + DEADLINE_S
        while not (result := condition()):
            assert self.process.poll() is None, f"QEMU ended: {self.process.communicate()[1]}\n{self.console()}"
            assert time.monotonic() < deadline, self.console()
            time.sleep(0.02)
        return result

    def wait_ready(self) -> None:
        self.wait(lambda: "\nbascule-guest: ready" in self.console().replace("\r", ""))

    def request(self, path: str, method: str = "GET") -> bytes:
        url = f"http://{self.http[0]}:{self.http[1]}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=DEADLINE_S) as answer:
            body: bytes = answer.read()
            return body

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.request("/status"))
        return status

    def status_when(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        last: dict[str, Any] = {}

        def holds() -> bool:
            last.clear()
            last.update(self.status())
            return condition(last)

        self.wait(holds)
        return last

    def press_power_button(self) -> None:
        with socket.socket(socket.AF_UNIX) as monitor, contextlib.closing(monitor.makefile("rw")) as stream:
            monitor.settimeout(DEADLINE_S)
            monitor.connect(f"{self._folder}/qmp")
            stream.readline()
            for command in ("qmp_capabilities", "system_powerdown"):
                stream.write(json.dumps({"execute": command}) + "\n")
                stream.flush()
                while "return" not in stream.readline():  # events come in between
                    pass

    def type_on_console(self, text: str) -> None:
        with socket.socket(socket.AF_UNIX) as console:
            console.connect(f"{self._folder}/console")
            console.sendall(text.encode())
            # The echo; the shell breaks longer lines.
            self.wait(lambda: text.strip()[:40] in self.console())

    def wait_exit(self) -> None:
        assert self.process.wait(timeout=DEADLINE_S) == 0


def free_port() -> int:
    """A port that is free for TCP and for UDP."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        port: int = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        return port


Boot = Callable[..., Guest]


@pytest.fixture
def boot(guest_image: GuestImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boot]:
    """Boot a guest and wait until it is ready: `boot("-snapshot", dirty_mib=64)`."""
    guests = []

    def start(*extra: str, **options: Any) -> Guest:
        options.setdefault("addresses", (ADDRESS,))
        guest = Guest(guest_image, tmp_path_factory.mktemp("guest"), GuestOptions(**options), extra)
        guests.append(guest)
        guest.wait_ready()
        return guest

    yield start
    for guest in guests:
        guest.process.kill()
        guest.process.communicate()


def test_a_busy_guest_serves_checks_itself_and_obeys_the_power_button(boot: Boot) -> None:
    guest = boot(dirty_mib=64, rate_mb_s=60, injection=True)
    with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.create_connection(guest.echo, DEADLINE_S) as tcp:
        udp.settimeout(DEADLINE_S)
        udp.connect(guest.echo)
        for number in range(50):
            data = str(number).encode()
            udp.send(data)
            assert udp.recv(100) == data
            tcp.sendall(data)
            assert tcp.recv(100) == data
    assert b"Still here" in guest.request("/")

    healthy = guest.status_when(lambda status: status["passes"] >= 3)
    assert healthy["corrupt_blocks"] == 0
    assert healthy["dirty_mib"] == 64
    assert healthy["udp_datagrams"] == 50
    assert len(healthy["boot_id"]) == 36

    guest.request("/inject/page", "POST")
    found = guest.status_when(lambda status: status["corrupt_blocks"] > 0)
    assert found["corrupt_blocks"] == 1
    assert found["corruption"][0]["stale_passes"] == 1

    guest.press_power_button()
    guest.wait_exit()
    assert "bascule-guest: power button" in guest.console()


def test_the_console_is_a_root_shell_that_comes_back_and_can_switch_off(boot: Boot) -> None:
    guest = boot()
    guest.type_on_console("echo I am user $(id -u)\n")
    guest.wait(lambda: "I am user 0" in guest.console())
    prompts = guest.console().count("bascule-guest#")
    guest.type_on_console("exit\n")
    guest.wait(lambda: guest.console().count("bascule-guest#") > prompts)
    guest.type_on_console("poweroff\n")
    guest.wait_exit()


def test_further_devices_do_no_harm(boot: Boot) -> None:
    devices = ["virtio-rng-pci", "virtio-balloon-pci", "virtio-net-pci,netdev=net1", "virtio-net-pci,netdev=net2"]
    netdevs = [word for number in (1, 2) for word in ("-netdev", f"user,id=net{number},net=10.9.{number}.0/24")]
    guest = boot(
        *netdevs, *[word for device in devices for word in ("-device", device)], addresses=(ADDRESS, "10.9.1.7/24")
    )
    guest.type_on_console(
        "ip -4 -o address | cut -c1-40; ip -o link | cut -c1-50; ls -d /sys/bus/virtio/drivers/*/virtio*\n"
    )
    guest.wait(lambda: guest.console().count("/virtio_net/virtio") == 3)
    console = guest.console()
    assert "eth1    inet 10.9.1.7/24" in console
    assert "eth2: <BROADCAST,MULTICAST> " in console  # down
    assert "/virtio_rng/virtio" in console
    assert "/virtio_balloon/virtio" in console


def test_a_guest_numbers_records_over_its_boots(boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    drive = ("-drive", f"file={disk},format=raw,if=virtio,cache=none")
    last = -1
    for boots in (1, 2):
        guest = boot(*drive, sequence=True)
        enough = last + 20
        status = guest.status_when(lambda status, enough=enough: status["sequence"]["number"] >= enough)["sequence"]
        assert status["running"]
        assert status["conflicts"] == 0
        guest.process.kill()
        guest.process.wait()
        report = guest_sequence.inspect(disk)
        assert report.problems == ()
        assert report.last >= status["number"]
        assert len(report.boots) == boots
        last = report.last


def test_a_guest_that_runs_twice_is_found(boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    # Without QEMU's lock on the image, which would not let the second one in.
    drive = ("-drive", f"file={disk},format=raw,if=virtio,cache=none,file.locking=off")
    one, other = boot(*drive, sequence=True), boot(*drive, sequence=True)
    # The one behind finds the records of the one ahead.
    one.wait(lambda: any(guest.status()["sequence"]["conflicts"] for guest in (one, other)))
    for guest in (one, other):
        guest.process.kill()
        guest.process.wait()
    assert guest_sequence.inspect(disk).problems


def test_a_guest_without_the_disk_says_that_its_sequence_ended(boot: Boot) -> None:
    guest = boot(sequence=True)
    guest.wait(lambda: "the sequence on /dev/vda ends" in guest.console())
    assert guest.status_when(lambda status: not status["sequence"]["running"])["sequence"]["number"] == -1
