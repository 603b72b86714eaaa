"""Pinned machines and stable MACs."""

import pytest

from bascule.errors import Refused
from bascule.vm.definition import Definition, pin_machine, stable_mac

UUID = "6f9619ff-8b86-4d01-b42d-00c04fc964ff"
ALIASES = {"q35": "pc-q35-7.2", "pc": "pc-i440fx-7.2", "x": "microvm"}


def vm(machine: str) -> Definition:
    return Definition("web", UUID, 512, 1, "Nehalem", machine, "auto")


@pytest.mark.parametrize(
    ("machine", "pinned", "chipset"),
    [
        ("q35", "pc-q35-7.2", "q35"),
        ("pc", "pc-i440fx-7.2", "pc"),
        ("pc-q35-6.0", "pc-q35-6.0", "q35"),
        ("pc-i440fx-noble", "pc-i440fx-noble", "pc"),
    ],
)
def test_pin_machine(machine: str, pinned: str, chipset: str) -> None:
    definition = pin_machine(vm(machine), ALIASES)
    assert definition == vm(pinned)
    assert definition.chipset == vm(machine).chipset == chipset


@pytest.mark.parametrize("machine", ["x", "isapc"])
def test_machine_without_a_version_is_refused(machine: str) -> None:
    with pytest.raises(Refused) as refused:
        pin_machine(vm(machine), ALIASES)
    assert f'machine: this QEMU has no versioned type for "{machine}"' in str(refused.value)
    assert "or one of: pc, q35)" in str(refused.value)


def test_machine_of_a_qemu_without_aliases() -> None:
    assert pin_machine(vm("pc-q35-7.2"), {}) == vm("pc-q35-7.2")
    with pytest.raises(Refused, match="define VM web"):
        pin_machine(vm("q35"), {})


def test_mac_never_changes() -> None:
    # Guests name their cards by it: it must be the same in every release.
    assert stable_mac(UUID, 0, ()) == "52:54:00:b4:56:57"
    assert stable_mac(UUID, 0, {"52:54:00:b4:56:57"}) not in {"52:54:00:b4:56:57", stable_mac(UUID, 1, ())}
