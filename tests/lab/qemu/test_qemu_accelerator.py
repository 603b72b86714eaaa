"""Whether KVM is proven here; what a proof sees, remembers and leaves behind."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bascule.errors import Refused
from bascule.qemu import accelerator
from bascule.qemu.accelerator import AcceleratorChoice, ProofSettings, newest_kernel, resolve
from bascule.qemu.capability_probe import CapabilityProbe
from bascule.qemu.kvm_proof import boot_linux
from bascule.qemu.user import KVM_DEVICE, QemuUser, find_user

pytestmark = pytest.mark.lab

needs_kvm = pytest.mark.skipif(not KVM_DEVICE.exists(), reason="this machine has no /dev/kvm")
ROOT = QemuUser(0, 0)
PACKAGE = "linux-image-cloud-amd64"  # depends on the present kernel


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real kernel: of this machine, or out of the distribution's package, which is unpacked, not installed."""
    found = newest_kernel()
    if found is not None:
        yield found
        return
    folder = tmp_path_factory.mktemp("kernel")
    try:
        depends = subprocess.run(["apt-cache", "depends", PACKAGE], check=True, capture_output=True, text=True)
        name = next(line.split()[-1] for line in depends.stdout.splitlines() if "Depends: linux-image-" in line)
        subprocess.run(["apt-get", "download", name], check=True, cwd=folder, capture_output=True)
    except (OSError, subprocess.CalledProcessError, StopIteration):
        pytest.skip("no kernel in /boot, and no kernel package to be had")
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    unpacked = newest_kernel(folder / "boot")
    assert unpacked is not None
    yield unpacked
    shutil.rmtree(folder)


@pytest.fixture
def settings(bench: Any, kernel: Path) -> ProofSettings:
    # As root, which may open the device on any machine.
    return ProofSettings(
        bench.binary, bench.home / "kvm.json", user=ROOT, kernel=kernel, parent=bench.home, deadline_s=3
    )


@pytest.fixture
def probe(bench: Any) -> CapabilityProbe:
    return CapabilityProbe(bench.binary, user=ROOT, parent=bench.home)


async def test_a_kernel_that_boots_is_seen(bench: Any, kernel: Path) -> None:
    result = await boot_linux(
        bench.binary, kernel, accelerator="tcg", cpu="max", deadline_s=60, user=bench.user, parent=bench.home
    )
    assert result.booted, result.problem
    assert sorted(path.name for path in bench.home.iterdir()) == ["dirtier"], "the proof left something"


async def test_a_guest_that_hangs_is_given_up_at_the_deadline(bench: Any) -> None:
    result = await boot_linux(
        bench.binary, bench.dirtier, accelerator="tcg", cpu="max", deadline_s=0.5, user=bench.user, parent=bench.home
    )
    assert not result.booted
    assert not result.aborted
    assert result.problem == f"the kernel {bench.dirtier} did not come up within 0.5 s; it said nothing"
    assert sorted(path.name for path in bench.home.iterdir()) == ["dirtier"]


async def test_a_qemu_that_gives_up_is_told_from_a_hang(bench: Any) -> None:
    result = await boot_linux(
        bench.binary,
        bench.dirtier,
        accelerator="tcg",
        cpu="nonsense",
        deadline_s=30,
        user=bench.user,
        parent=bench.home,
    )
    assert not result.booted
    assert result.aborted
    assert "nonsense" in result.problem


async def test_a_missing_kernel_is_refused(bench: Any) -> None:
    with pytest.raises(Refused, match="No such file"):
        await boot_linux(
            bench.binary, bench.home / "none", accelerator="tcg", cpu="max", deadline_s=5, parent=bench.home
        )


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[AcceleratorChoice]:
    """The outcomes of all proofs that are really made."""
    made: list[AcceleratorChoice] = []
    prove = accelerator._prove

    async def counted(*arguments: Any) -> AcceleratorChoice:
        made.append(await prove(*arguments))
        return made[-1]

    monkeypatch.setattr(accelerator, "_prove", counted)
    return made


@needs_kvm
async def test_auto_chooses_by_proof_says_why_and_remembers(
    settings: ProofSettings, probe: CapabilityProbe, proofs: list[AcceleratorChoice]
) -> None:
    choice = await resolve("auto", settings, probe)
    # This machine may have a working KVM or not; whichever it is, the reason tells what was seen.
    seen = "was seen booting" if choice.name == "kvm" else "does not run a 64-bit Linux"
    assert seen in choice.reason
    assert str(settings.kernel) in choice.reason
    assert await resolve("auto", settings, probe) == choice
    assert proofs == [choice]


@needs_kvm
async def test_another_boot_kernel_is_another_proof(
    settings: ProofSettings, probe: CapabilityProbe, proofs: list[AcceleratorChoice], bench: Any
) -> None:
    # The dirtier is no Linux and never prints a banner.
    other = ProofSettings(bench.binary, settings.state_file, ROOT, bench.dirtier, bench.home, deadline_s=0.5)
    assert (await resolve("auto", other, probe)).name == "tcg"
    await resolve("auto", settings, probe)
    assert len(proofs) == 2


@needs_kvm
async def test_two_at_once_share_one_proof(
    settings: ProofSettings, probe: CapabilityProbe, proofs: list[AcceleratorChoice]
) -> None:
    first, second = await asyncio.gather(resolve("auto", settings, probe), resolve("auto", settings, probe))
    assert first == second
    assert len(proofs) == 1


@needs_kvm
async def test_a_user_who_may_not_open_kvm_gets_tcg_with_qemus_words(
    settings: ProofSettings, probe: CapabilityProbe, bench: Any
) -> None:
    locked_out = ProofSettings(bench.binary, settings.state_file, user=bench.user, parent=bench.home)
    if find_user(bench.user.uid).extra_groups or KVM_DEVICE.stat().st_mode & 0o006:
        pytest.skip("everybody may open /dev/kvm here")
    choice = await resolve("auto", locked_out, probe)
    assert choice.name == "tcg"
    assert "Permission denied" in choice.reason
    with pytest.raises(Refused, match="Permission denied"):
        await resolve("kvm", locked_out, probe)


@needs_kvm
async def test_without_a_kernel_nothing_is_proven(
    settings: ProofSettings, probe: CapabilityProbe, monkeypatch: Any
) -> None:
    monkeypatch.setattr(accelerator, "newest_kernel", lambda: None)
    bare = ProofSettings(settings.binary, settings.state_file, user=ROOT, parent=settings.parent)
    choice = await resolve("auto", bare, probe)
    assert choice.name == "tcg"
    assert "proof_kernel" in choice.reason
    missing = ProofSettings(settings.binary, settings.state_file, ROOT, Path("/nowhere/kernel"), settings.parent)
    assert "/nowhere/kernel cannot be read" in (await resolve("auto", missing, probe)).reason
    assert not settings.state_file.exists(), "no proof, nothing to remember"


async def test_without_a_device_it_is_tcg(settings: ProofSettings, probe: CapabilityProbe, monkeypatch: Any) -> None:
    monkeypatch.setattr(accelerator, "KVM_DEVICE", Path("/dev/no-such-device"))
    choice = await resolve("auto", settings, probe)
    assert choice == AcceleratorChoice("tcg", "KVM is not usable: this host has no /dev/no-such-device")
    with pytest.raises(Refused, match="no-such-device"):
        await resolve("kvm", settings, probe)


async def test_what_is_asked_for_is_given(settings: ProofSettings, probe: CapabilityProbe) -> None:
    assert (await resolve("tcg", settings, probe)).name == "tcg"
