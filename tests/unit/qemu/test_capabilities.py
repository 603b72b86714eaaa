from dataclasses import replace

import pytest

from bascule.qemu.capabilities import HostCapabilities
from bascule.qemu.qmp_schema import Features

HOST = HostCapabilities(
    binary="/usr/bin/qemu-system-x86_64",
    version="7.2.22",
    accelerator="kvm",
    features=Features({}, frozenset(), frozenset(), frozenset()),
    machines={"pc-q35-7.2": "pc-q35-7.2", "pc-q35-2.0": "pc-q35-2.0", "q35": "pc-q35-7.2"},
    deprecated_machines=frozenset({"pc-q35-2.0"}),
    cpu_vendor="AuthenticAMD",
    cpu_name="AMD EPYC",
    cpu_features=frozenset({"sse2", "avx", "avx2"}),
    cpu_models={"EPYC": (), "Skylake-Server": ("avx512f",), "host": (), "max": ()},
)


def test_aliases_are_told_from_types() -> None:
    assert HOST.machine_aliases() == {"q35": "pc-q35-7.2"}


@pytest.mark.parametrize(
    ("model", "needed", "missing"),
    [
        ("EPYC", None, set()),
        ("Skylake-Server", None, {"avx512f"}),
        ("host", None, set()),
        ("host", {"avx2"}, set()),
        ("host", {"avx2", "svm"}, {"svm"}),
        ("EPYC", {"avx2", "svm"}, {"svm"}),
        # A guest that runs without a feature of its model elsewhere does not miss it here.
        ("Skylake-Server", {"avx2"}, set()),
        ("Skylake-Server", {"avx2", "avx512f"}, {"avx512f"}),
    ],
)
def test_missing_features(model: str, needed: set[str] | None, missing: set[str]) -> None:
    assert HOST.missing_features(model, needed) == missing


def test_a_feature_that_the_host_has_but_not_for_this_model_is_missing() -> None:
    odd = replace(HOST, cpu_models={"EPYC": ("avx2",)})
    assert odd.missing_features("EPYC", {"avx", "avx2"}) == {"avx2"}
