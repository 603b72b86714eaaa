"""The lab's guest as a VM: its image, its definition, its start, and what it says of itself."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bascule.errors import Failed
from bascule.lab.guest_image import GuestImage, build
from bascule.lab.guest_options import GuestOptions
from bascule.lab.laboratory import Lab
from bascule.lab.patience import patience
from bascule.lab.places import CACHE

READY = "bascule-guest: ready"
READY_DEADLINE_S = 60.0 * patience()
_FETCH = "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1], timeout=5).read().decode())"


class GuestVm:
    """One guest of a lab: `dirty_mib` MiB of its memory are rewritten at `rate_mb_s` MB/s and checked all the time.

    With `sequence` it numbers records on its first disk, which `start` has to be told of, and on the network.
    """

    def __init__(
        self,
        *,
        name: str = "guest",
        address: str = "10.77.0.50",
        memory_mib: int = 1024,
        dirty_mib: int = 64,
        rate_mb_s: float = 50,
        vcpus: int = 1,
        queues: int = 1,
        sequence: bool = False,
        progress: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.name = name
        self.address = address
        self._memory_mib = memory_mib
        self._dirty_mib = dirty_mib
        self._rate_mb_s = rate_mb_s
        self._vcpus = vcpus
        self._queues = queues
        self._sequence = sequence
        self._progress = progress
        self._image: GuestImage | None = None

    @property
    def address_v6(self) -> str:
        """The guest's IPv6 address, which follows from the other one as a host's does."""
        return f"fd77:ba5c:1e::{self.address.rsplit('.', 1)[1]}"

    @property
    def mac(self) -> str:
        """The guest's MAC: one for each address, so that a new guest is found by clients that knew an old one."""
        return "52:54:00:77:00:" + f"{int(self.address.rsplit('.', 1)[1]):02x}"

    def build_image(self, cache: Path = CACHE) -> GuestImage:
        """Build the guest's image, or find it in the cache."""
        self._image = build(cache, progress=self._progress)
        return self._image

    def use_image(self, image: GuestImage) -> None:
        """Boot another image than the lab's own."""
        self._image = image

    def definition(self, lab: Lab, sections: str = "") -> str:
        """Return the VM's definition with `sections` added; kernel and initrd are put where QEMU may read them."""
        image = self._image or self.build_image()
        kernel, initrd = (self._share(lab, file) for file in (image.kernel, image.initrd))
        addresses = (f"{self.address}/24+{self.address_v6}/64",)
        options = GuestOptions(addresses, self._dirty_mib, self._rate_mb_s, sequence=self._sequence)
        return f"""
name = "{self.name}"
memory = {self._memory_mib}
vcpus = {self._vcpus}
[boot]
kernel = "{kernel}"
initrd = "{initrd}"
command_line = "{options.command_line()}"
[[nics]]
bridge = "br0"
mac = "{self.mac}"
queues = {self._queues}
{sections}
"""

    def _share(self, lab: Lab, file: Path) -> Path:
        shared = lab.shared_directory / file.name
        if not shared.exists():
            shutil.copyfile(file, shared)
            shared.chmod(0o644)
        return shared

    def start(self, lab: Lab, host: str, sections: str = "") -> None:
        """Define the VM on a host, start it, and wait until its services answer."""
        toml = self.definition(lab, sections)
        lab.request(host, "POST", "/v1/vms", {"toml": toml, "origin": f"the lab's {self.name}"})
        vm = lab.request(host, "POST", f"/v1/vms/{self.name}/start", {})
        self.wait_ready(Path(vm["serial_socket"]).with_name("serial.log"))

    def wait_ready(self, console: Path) -> None:
        """Wait for the guest's own word on its console."""
        deadline = time.monotonic() + READY_DEADLINE_S
        text = ""
        while time.monotonic() < deadline:
            text = console.read_text(errors="replace") if console.exists() else ""
            if READY in text:
                return
            time.sleep(0.05)
        raise Failed(f"guest {self.name} did not come up within {READY_DEADLINE_S:g} s; its console:\n{text[-2000:]}")

    def status(self, lab: Lab) -> dict[str, Any]:
        """Ask the guest, from the lab's client, how it is."""
        asked = lab.run("client", [sys.executable, "-c", _FETCH, f"http://{self.address}/status"], timeout_s=20)
        if asked.returncode != 0:
            raise Failed(f"guest {self.name} does not answer: {asked.stderr.strip().splitlines()[-1:]}")
        status: dict[str, Any] = json.loads(asked.stdout)
        return status
