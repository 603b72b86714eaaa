"""The benches, one move each: that they still run, count, say so in the form that others read, and leave nothing."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from bascule.lab.newer_qemu import lab_qemu
from bascule.lab.places import CACHE
from bascule.lab.removal import find_remains

BENCH = Path(__file__).resolve().parents[2] / "bench"
LAST_LINE = re.compile(r"moves=(\d+) sent=(\d+) lost=(\d+) duplicated=(\d+) median_ms=([\d.]+) p99_ms=([\d.]+)")


def bench(name: str, *options: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a bench to its end, and assert that nothing is left of its lab; other labs may come and go beside it."""
    argv = [str(BENCH / name), *options]
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said, complaints = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            raise
    assert not find_remains(f"{name}{process.pid}")
    return subprocess.CompletedProcess(argv, process.returncode, said, complaints)


@pytest.mark.lab
def test_the_emulated_host_has_kvm_and_vhost_net(tmp_path: Path) -> None:
    command = "bench/outage --help >/dev/null && ls /dev/kvm /dev/vhost-net >$RESULT/seen && exit 7"
    options = ("--memory", "2048", "--scratch", str(tmp_path), "--result", str(tmp_path / "result"))
    done = bench("emulated-host", *options, "--", "sh", "-c", command)
    assert done.returncode == 7, done.stdout + done.stderr
    assert (tmp_path / "result" / "seen").read_text().split() == ["/dev/kvm", "/dev/vhost-net"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result"]


@pytest.mark.lab
def test_a_vm_under_kvm_that_vhost_net_serves_moves(tmp_path: Path) -> None:
    """To a host without vhost-net and back: both are in the one emulated host, whose kernel has it."""
    tests = ("tests/lab/moves/test_vhost.py", "-k", "without_and_back")
    done = bench("emulated-host", "--scratch", str(tmp_path), "--", ".venv/bin/pytest", *tests, timeout_s=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.lab
@pytest.mark.parametrize("workload", ["idle", "redis", "bulk"])
def test_the_outage_bench(tmp_path: Path, workload: str) -> None:
    done = bench(
        "outage",
        "--moves",
        "1",
        "--memory",
        "512",
        "--workload",
        workload,
        "--hz",
        "200",
        "--json",
        str(tmp_path / "o"),
        "--html",
        str(tmp_path / "p"),
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: a busy machine may well lose something
    line = LAST_LINE.fullmatch(done.stdout.splitlines()[-1])
    assert line is not None, done.stdout
    result = json.loads((tmp_path / "o").read_text())
    assert [move["outcome"] for move in result["moves"]] == ["completed"]
    assert (int(line[1]), int(line[2]), int(line[3])) == (1, result["sent"], result["lost"])
    assert result["sent"] >= result["moves"][0]["sent"] > 0
    assert result["tcp"]["unbroken"]
    assert result["corrupt_blocks"] == 0
    if workload != "idle":
        assert (result["load"]["error"], result["load"]["wrong"]) == ("", 0)
        assert result["load"].get("commands", 0) + result["load"].get("bytes", 0) > 0
        assert result["moves"][0]["stall_ms"] > 0
    if workload == "bulk":
        move = result["moves"][0]
        assert 0 < move["throughput"]["total_bytes"] == sum(move["throughput"]["bytes"]) <= result["load"]["bytes"]
        assert set(move["drawn"]) <= set(done.stdout.splitlines())
        assert "What came back of a bulk TCP stream" in (tmp_path / "p").read_text()


@pytest.mark.lab
def test_the_peers_bench(tmp_path: Path) -> None:
    figures, page = tmp_path / "peers.json", tmp_path / "peers.md"
    rows = "bascule,raw-lifted,ovirt-post-copy,proxmox,incus-lifted"
    options = ["--workload", "idle", "--moves", "1", "--memory", "512", "--json", str(figures), "--markdown", str(page)]
    done = bench("peers", "--rows", rows, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())["workloads"]["idle"]["rows"]
    assert list(found) == rows.split(",")
    for moves in found.values():
        assert [move["outcome"] for move in moves] == ["completed"]
        assert moves[0]["blackout_ms"] > 0
        assert moves[0]["sent"] > 0
        assert not moves[0]["facts"].get("refused")
    text = page.read_text()
    assert "| **Bascule** | 1 of 1 |" in text
    assert "best peer's blackout" in text
    assert page.with_suffix(".svg").read_text().startswith("<svg")


with_libvirt = pytest.mark.skipif(
    any(shutil.which(name, path="/usr/sbin:/usr/bin") is None for name in ("libvirtd", "virsh")),
    reason="libvirt is not installed",
)


@pytest.mark.lab
@with_libvirt
def test_the_real_virsh_is_a_row_with_all_its_settings(tmp_path: Path) -> None:
    figures, page = tmp_path / "peers.json", tmp_path / "peers.md"
    options = ["--workload", "idle", "--moves", "2", "--memory", "512", "--json", str(figures), "--markdown", str(page)]
    done = bench("peers", "--rows", "virsh", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    moves = json.loads(figures.read_text())["workloads"]["idle"]["rows"].get("virsh")
    assert moves, done.stdout  # a row that does not work is left out
    assert [move["outcome"] for move in moves] == ["completed", "completed"]
    assert all(move["blackout_ms"] > 0 and move["sent"] > 0 for move in moves)
    text = page.read_text()
    assert "| virsh migrate --live, the real one | 2 of 2 |" in text
    assert "<interface type='bridge'>" in text
    assert f"Running hypervisor: QEMU {lab_qemu_version()}" in text


def lab_qemu_version() -> str:
    said = subprocess.run([lab_qemu(CACHE), "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[3]


@pytest.mark.lab
@pytest.mark.parametrize(
    ("name", "options", "first"),
    [
        ("outage", ["--moves", "50"], "1/50"),
        pytest.param(
            "peers", ["--moves", "50", "--rows", "virsh", "--workload", "idle"], "idle 1/50", marks=with_libvirt
        ),
    ],
)
def test_an_interrupted_bench_leaves_nothing(name: str, options: list[str], first: str) -> None:
    argv = [str(BENCH / name), "--memory", "512", *options]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = ""
    while not said.startswith(first):
        said = process.stdout.readline()
        assert said, process.communicate()
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "nothing is left behind" in complaints
    assert not find_remains(f"{name}{process.pid}")


def test_every_row_can_be_listed() -> None:
    done = bench("peers", "--list")
    assert done.returncode == 0, done.stderr
    for row in (
        "bascule",
        "raw",
        "raw-lifted",
        "virsh",
        "nova",
        "kubevirt",
        "ovirt-post-copy",
        "proxmox",
        "incus",
        "ganeti",
    ):
        assert f"(`{row}`)" in done.stdout


def test_an_unknown_row_is_told_at_once() -> None:
    done = bench("peers", "--rows", "bascule,vmotion")
    assert done.returncode == 2
    assert "there is no row vmotion" in done.stderr


@pytest.mark.lab
def test_the_bench_of_failing_switchovers(tmp_path: Path) -> None:
    done = bench("failing", "--moves", "1", "--memory", "256", "--hz", "100", "--json", str(tmp_path / "found"))
    if "did not fail in its switchover" in done.stderr:
        pytest.skip("on this busy machine the kill came when all was decided")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"moves=1 sent=\d+ lost=0 duplicated=0 untold=[01]", done.stdout.splitlines()[-1])
    assert json.loads((tmp_path / "found").read_text())["moves"][0]["lost"] == 0
