"""What QEMU and the CPU of one host can do: the record that agents exchange before a move. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Self

from bascule.qemu.qmp_schema import Features

HOST_MODELS = ("host", "max")  # "all that this host has": under KVM, and under any accelerator


@dataclass(frozen=True, slots=True)
class HostCapabilities:
    """Facts about one QEMU binary with one accelerator on one host.

    `version` is for people to read; decisions look at `features` and `machines`. CPU features have QEMU's names.
    `cpu_features` is all that a guest can get here, with the models `host` (KVM) or `max` (TCG).
    `cpu_models` gives for each named model which of its features a guest would miss here; empty means it runs as
    defined. `machines` maps every machine type to itself and every alias to the versioned type that it stands for.
    """

    binary: str
    version: str
    accelerator: str
    features: Features
    machines: Mapping[str, str]
    deprecated_machines: frozenset[str]
    cpu_vendor: str
    cpu_name: str
    cpu_features: frozenset[str]
    cpu_models: Mapping[str, tuple[str, ...]]

    def machine_aliases(self) -> dict[str, str]:
        """Only the aliases, such as `q35`, each with the versioned type that it stands for now."""
        return {alias: name for alias, name in self.machines.items() if alias != name}

    def missing_features(self, model: str, needed: Set[str] | None = None) -> frozenset[str]:
        """Which CPU features a guest of CPU `model` would miss here.

        `needed` are the features that it has where it runs now (`CapabilityProbe.features_of` on that host). With
        None, a guest that runs nowhere yet: all that a named model is defined with counts, and for `host` and `max`,
        which are whatever a host has, nothing can be missing. Ask `model in cpu_models` first.
        """
        unavailable = frozenset(self.cpu_models.get(model, ()))
        if needed is None:
            return frozenset() if model in HOST_MODELS else unavailable
        return frozenset((needed - self.cpu_features) | (needed & unavailable))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "binary": self.binary,
            "version": self.version,
            "accelerator": self.accelerator,
            "features": self.features.to_dict(),
            "machines": dict(self.machines),
            "deprecated_machines": sorted(self.deprecated_machines),
            "cpu_vendor": self.cpu_vendor,
            "cpu_name": self.cpu_name,
            "cpu_features": sorted(self.cpu_features),
            "cpu_models": {name: list(missing) for name, missing in self.cpu_models.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(
            binary=str(data["binary"]),
            version=str(data["version"]),
            accelerator=str(data["accelerator"]),
            features=Features.from_dict(data["features"]),
            machines=dict(data["machines"]),
            deprecated_machines=frozenset(data["deprecated_machines"]),
            cpu_vendor=str(data["cpu_vendor"]),
            cpu_name=str(data["cpu_name"]),
            cpu_features=frozenset(data["cpu_features"]),
            cpu_models={str(name): tuple(missing) for name, missing in data["cpu_models"].items()},
        )
