"""Getting a tap back from a running QEMU."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from bascule.errors import Failed
from bascule.network.foreign_tap import tap_holders
from bascule.network.frames import rarp
from bascule.network.tap import Tap, tap_name

pytestmark = pytest.mark.lab

GUEST = "52:54:00:aa:00:50"


def test_a_restarted_agent_gets_its_tap_back_from_qemu(net: Any):
    name = tap_name("3f1c2b6e-6a55-4a2e-9c1f-0d5b8f6f9b11", 0)
    tap = net.tap(net.a, name)
    qemu = subprocess.Popen(
        ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-nodefaults", "-no-user-config",
         "-display", "none", "-S", "-qmp", "stdio",
         "-netdev", f"tap,id=net0,fd={tap.fileno()},vhost=off",
         "-device", f"virtio-net-pci,netdev=net0,mac={GUEST}"],
        pass_fds=[tap.fileno()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        user=65534, group=65534, extra_groups=[],
    )  # fmt: skip
    try:
        assert qemu.stdout is not None
        assert b"QMP" in qemu.stdout.readline()
        assert {pid for pid, _ in net.a.run(tap_holders, name)} == {os.getpid(), qemu.pid}
        tap.close()
        assert net.a.run(tap_holders, name) == [(qemu.pid, "qemu-system-x86")]
        assert net.b.run(tap_holders, name) == []

        again = Tap.from_process(qemu.pid, name)
        net.taps.append(again)
        at_client = net.capture(net.client, "eth0")
        again.inject(rarp(GUEST))
        at_client.wait_for(rarp(GUEST))
        with pytest.raises(Failed, match="has no such tap open"):
            Tap.from_process(qemu.pid, "bscother")
        assert os.get_inheritable(again.fileno()) is False
    finally:
        qemu.kill()
        qemu.communicate()
    assert name in net.a.links(), "the agent's descriptor outlives QEMU"
    again.close()
    net.wait_until(lambda: name not in net.a.links(), "the tap's end")
    with pytest.raises(Failed, match=f"process {qemu.pid}: No such process"):
        Tap.from_process(qemu.pid, name)
