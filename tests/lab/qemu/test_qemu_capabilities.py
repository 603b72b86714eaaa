"""What this machine's QEMU says it can do, and what is remembered of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from bascule.errors import Refused
from bascule.qemu.capabilities import HostCapabilities
from bascule.qemu.capability_probe import CapabilityProbe
from bascule.qemu.migration_stats import FINAL_STATUSES

pytestmark = pytest.mark.lab


@pytest.fixture
def cache(home: Path) -> Path:
    return home / "capabilities.json"


@pytest.fixture
def probe(bench: Any, cache: Path) -> CapabilityProbe:
    return CapabilityProbe(bench.binary, user=bench.user, cache_file=cache, parent=bench.home)


async def test_the_schema_names_all_that_a_move_uses(probe: CapabilityProbe) -> None:
    features = (await probe.capabilities("tcg")).features
    assert {"events", "return-path", "late-block-activate"} <= features.migration_capabilities
    assert {"max-bandwidth", "downtime-limit"} <= features.migration_parameters
    assert {"MIGRATION", "MIGRATION_PASS", "STOP", "RESUME"} <= features.events
    assert {"setup", "active", "device"} | FINAL_STATUSES <= features.migration_statuses
    assert "uri" in features.commands["migrate"]
    assert features.commands["query-status"] == ()
    assert {"yank", "getfd", "migrate-incoming"} <= features.commands.keys()


async def test_aliases_stand_for_versioned_machines(probe: CapabilityProbe) -> None:
    facts = await probe.capabilities("tcg")
    aliases = facts.machine_aliases()
    assert set(aliases) >= {"pc", "q35"}
    assert aliases["q35"].startswith("pc-q35-")
    assert facts.machines[aliases["q35"]] == aliases["q35"]
    assert facts.deprecated_machines <= facts.machines.keys()


async def test_cpu_models_say_what_a_guest_would_miss(probe: CapabilityProbe) -> None:
    facts = await probe.capabilities("tcg")
    assert facts.cpu_models["qemu64"] == ()
    # Software emulation has no AVX-512, on any host.
    assert "avx512f" in facts.missing_features("Skylake-Server")
    assert "avx512f" not in facts.cpu_features
    assert facts.missing_features("max") == frozenset()


async def test_a_guest_that_runs_here_misses_nothing_here(probe: CapabilityProbe) -> None:
    facts = await probe.capabilities("tcg")
    for model in ("max", "qemu64", "Skylake-Server"):
        needed = await probe.features_of(model, "tcg")
        assert len(needed) > 20
        assert facts.missing_features(model, needed) == frozenset()
    assert facts.missing_features("max", needed | {"avx512f"}) == {"avx512f"}


async def test_facts_travel_as_json(probe: CapabilityProbe) -> None:
    facts = await probe.capabilities("tcg")
    assert HostCapabilities.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts


async def test_a_second_agent_reads_the_file_instead_of_asking(probe: CapabilityProbe, bench: Any, cache: Path) -> None:
    facts = await probe.capabilities("tcg")
    # Nothing can be started from a folder that does not exist, so only the file can answer.
    reader = CapabilityProbe(bench.binary, user=bench.user, cache_file=cache, parent=bench.home / "missing")
    assert await reader.capabilities("tcg") == facts


async def test_another_binary_or_a_damaged_file_means_asking_again(
    probe: CapabilityProbe, bench: Any, cache: Path
) -> None:
    facts = await probe.capabilities("tcg")
    entries = _read(cache)
    _write(cache, json.dumps({"another identity": next(iter(entries.values()))}))
    nowhere = CapabilityProbe(bench.binary, cache_file=cache, parent=bench.home / "missing")
    with pytest.raises(Refused):
        await nowhere.capabilities("tcg")
    for damaged in ("", "[]", "{", json.dumps({name: {} for name in entries})):
        _write(cache, damaged)
        again = CapabilityProbe(bench.binary, user=bench.user, cache_file=cache, parent=bench.home)
        assert await again.capabilities("tcg") == facts
        assert _read(cache).keys() >= entries.keys()


def _read(cache: Path) -> dict[str, Any]:
    return dict(json.loads(cache.read_text()))


def _write(cache: Path, text: str) -> None:
    cache.write_text(text)


async def test_a_missing_binary_is_refused_with_its_remedy(bench: Any) -> None:
    with pytest.raises(Refused, match="qemu-system-x86"):
        await CapabilityProbe("qemu-system-nowhere").capabilities("tcg")
