"""Round trips, and data from other agents."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.errors import Refused
from bascule.vm.definition import Definition, Disk, KernelBoot, Nic
from bascule.vm.parse import parse
from bascule.vm.serialise import from_dict, to_dict, to_toml

UUID = "6f9619ff-8b86-4d01-b42d-00c04fc964ff"
OTHER_UUID = "00000000-0000-4000-8000-000000000001"

_printable = st.characters(exclude_categories=["C", "Z"], exclude_characters="/") | st.sampled_from(' "\\,=#')
_paths = (
    st.lists(st.text(_printable, min_size=1, max_size=12).filter(lambda part: part not in {".", ".."}), min_size=1)
    .map(lambda parts: "/" + "/".join(parts))
    .filter(lambda path: len(path.encode()) < 4000)
)
_macs = st.integers(0, 2**24 - 1).map(lambda n: "52:54:00:" + n.to_bytes(3, "big").hex(":"))
_words = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}", fullmatch=True)


@st.composite
def definitions(draw: st.DrawFn) -> Definition:
    boot = draw(
        st.none() | st.builds(KernelBoot, _paths, st.none() | _paths, st.text(_printable | st.just("/"), max_size=100))
    )
    disk_paths = draw(st.lists(_paths, min_size=0 if boot else 1, max_size=4, unique=True))
    cpu = draw(st.just("host") | _words)
    vcpus = draw(st.integers(1, 255))
    macs = draw(st.lists(_macs, max_size=3, unique=True))
    return Definition(
        name=draw(_words),
        uuid=str(draw(st.uuids())),
        memory_mib=draw(st.integers(16, 960 * 1024)),
        vcpus=vcpus,
        cpu=cpu,
        machine=draw(st.sampled_from(["q35", "pc", "pc-q35-7.2", "pc-i440fx-10.0", "pc-q35-noble"])),
        accel=draw(st.sampled_from(["auto", "kvm"] if cpu == "host" else ["auto", "kvm", "tcg"])),
        boot=boot,
        disks=tuple(Disk(path, draw(st.sampled_from(["qcow2", "raw"])), draw(st.booleans())) for path in disk_paths),
        nics=tuple(Nic(draw(_words), mac, draw(st.integers(1, min(vcpus, 16)))) for mac in macs),
        vnc=draw(st.booleans()),
        rng=draw(st.booleans()),
        balloon=draw(st.booleans()),
    )


@settings(deadline=None)
@given(definitions())
def test_toml_comes_back_equal(definition: Definition) -> None:
    assert parse(to_toml(definition), "web.toml", OTHER_UUID) == definition


def test_one_queue_is_not_mentioned_to_agents_that_know_no_other() -> None:
    text = 'name = "web"\nmemory = 64\nvcpus = 2\n[boot]\nkernel = "/k"\n[[nics]]\nbridge = "b"\n'
    assert "queues" not in to_dict(parse(text, "web.toml", OTHER_UUID))["nics"][0]
    assert to_dict(parse(text + "queues = 2", "web.toml", OTHER_UUID))["nics"][0]["queues"] == 2


def test_a_nic_of_an_agent_that_knew_no_vhost_net_stays_as_it_is() -> None:
    """The guest sees another card where vhost-net may serve it."""
    text = 'name = "web"\nmemory = 64\n[boot]\nkernel = "/k"\n[[nics]]\nbridge = "b"\n'
    new = parse(text, "web.toml", OTHER_UUID)
    assert new.nics[0].vhost
    assert to_dict(new)["nics"][0]["vhost"] is True
    without = parse(text + "vhost = false", "web.toml", OTHER_UUID)
    assert "vhost" not in to_dict(without)["nics"][0]
    assert from_dict(to_dict(without)) == without
    assert parse(to_toml(from_dict(to_dict(without))), "web.toml", OTHER_UUID) == without


def test_a_nic_of_an_agent_that_left_it_to_the_tap_to_cut_udp_stays_as_it_is() -> None:
    text = 'name = "web"\nmemory = 64\n[boot]\nkernel = "/k"\n[[nics]]\nbridge = "b"\n'
    new = parse(text, "web.toml", OTHER_UUID)
    older = to_dict(new)
    assert older["nics"][0].pop("udp_segmentation") is False
    assert from_dict(older).nics[0].udp_segmentation
    assert parse(to_toml(from_dict(older)), "web.toml", OTHER_UUID) == from_dict(older)
    assert "udp_segmentation" not in to_toml(new)


@settings(deadline=None)
@given(definitions())
def test_json_comes_back_equal(definition: Definition) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(definition)))) == definition


def test_toml_reads_well() -> None:
    definition = Definition(
        "web", UUID, 1536, 2, "host", "pc-q35-7.2", "kvm", KernelBoot("/k"), (Disk("/a", "raw"),), (Nic("b", "m"),)
    )
    assert to_toml(definition).splitlines() == [
        'name = "web"',
        f'uuid = "{UUID}"',
        'memory = "1536MiB"',
        "vcpus = 2",
        'cpu = "host"',
        'machine = "pc-q35-7.2"',
        'accel = "kvm"',
        "vnc = false",
        "rng = true",
        "balloon = true",
        "",
        "[boot]",
        'kernel = "/k"',
        'command_line = ""',
        "",
        "[[disks]]",
        'path = "/a"',
        'format = "raw"',
        "read_only = false",
        "",
        "[[nics]]",
        'bridge = "b"',
        'mac = "m"',
        "vhost = false",
        "udp_segmentation = true",
    ]


def _valid() -> dict[str, Any]:
    return to_dict(parse('name = "web"\nmemory = 512\n[[disks]]\npath = "/a"\nformat = "raw"', "x", UUID))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"memory_mib": None}, "memory_mib: is missing"),
        ({"uuid": None}, "uuid: is missing"),
        ({"disks": [{"path": "/a", "format": "raw,file=/etc/shadow"}]}, "disks[0].format"),
        ({"name": "../../etc"}, "name: "),
        ({"disks": [{"path": "/\ud800", "format": "raw"}]}, "disks[0].path"),
        ({"tpm": True}, "tpm: unknown key"),
    ],
)
def test_other_agents_are_not_trusted(change: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match="from host h2") as refused:
        from_dict(_valid() | change, "from host h2")
    assert said in str(refused.value)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _refusal(data: dict[str, Any]) -> Refused | None:
    try:
        from_dict(data)
    except Refused as refused:
        return refused
    return None


@settings(deadline=None)
@given(st.sampled_from([*_valid(), "new"]), _json)
def test_any_json_is_read_or_refused(key: str, value: Any) -> None:
    refused = _refusal(_valid() | {key: value})
    if refused is not None:
        # "boot" is blamed too when a change of "disks" leaves nothing to boot from.
        assert {finding.subject[: len(key)] for finding in refused.findings} <= {key, "boot"[: len(key)]}
