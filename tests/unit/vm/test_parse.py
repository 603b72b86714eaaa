"""The file format: defaults, normal forms, and every mistake by its key, all at once."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bascule.errors import Refused
from bascule.vm.definition import MAX_DISKS, MAX_NICS, Disk, KernelBoot, Nic
from bascule.vm.parse import parse

UUID = "6f9619ff-8b86-4d01-b42d-00c04fc964ff"
EXAMPLE = Path(__file__).parents[3] / "docs/examples/web.toml"
MINIMAL = 'name = "web"\nmemory = 512\nboot.kernel = "/k"\n'
DISK = '[[disks]]\npath = "/web.raw"\nformat = "raw"\n'


def findings(text: str) -> list[str]:
    with pytest.raises(Refused) as refused:
        parse(text, "web.toml", UUID)
    assert "web.toml" in refused.value.message
    return [str(finding) for finding in refused.value.findings]


def finding(text: str) -> str:
    (only,) = findings(text)
    return only


def with_line(line: str) -> str:
    """A complete file whose one fault, if any, is in `line`."""
    key = line.partition("=")[0].strip()
    kept = [row for row in MINIMAL.splitlines() if row.partition("=")[0].strip() != key]
    return "\n".join([*kept, line])


def test_example_of_the_documentation() -> None:
    definition = parse(EXAMPLE.read_text(), "web.toml", UUID)
    assert (definition.name, definition.uuid, definition.memory_mib, definition.vcpus) == ("web", UUID, 2048, 2)
    assert definition.vnc
    assert definition.boot is None
    assert definition.disks == (Disk("/srv/vms/web.qcow2", "qcow2"), Disk("/srv/vms/web-data.raw", "raw"))
    assert [nic.bridge for nic in definition.nics] == ["br0"]


def test_commented_lines_of_the_example_are_valid_too() -> None:
    lines = EXAMPLE.read_text().splitlines()
    start = lines.index("# [boot]")
    boot = [line.removeprefix("# ") for line in lines[start : lines.index("", start)]]
    uncommented = "\n".join([*lines[:start], *boot, *lines[start:]]).replace("# mac", "mac")
    definition = parse(uncommented, "web.toml", UUID)
    assert definition.boot == KernelBoot("/srv/vms/vmlinuz", "/srv/vms/initrd.img", "console=ttyS0 root=/dev/vda1")
    assert definition.nics == (Nic("br0", "52:54:00:12:34:56", vhost=True, udp_segmentation=False),)


def test_defaults() -> None:
    definition = parse(MINIMAL, "web.toml", UUID)
    assert (definition.vcpus, definition.cpu, definition.machine, definition.accel) == (1, "Nehalem", "q35", "auto")
    assert (definition.vnc, definition.rng, definition.balloon) == (False, True, True)
    assert definition.boot == KernelBoot("/k", None, "")
    assert not definition.disks
    assert not definition.nics


@pytest.mark.parametrize(
    ("given_", "mib"), [("1024", 1024), ('"512MiB"', 512), ('"2GiB"', 2048), ('"1 gib"', 1024), ('"0TiB"', None)]
)
def test_memory(given_: str, mib: int | None) -> None:
    text = with_line(f"memory = {given_}")
    if mib is None:
        assert "too little" in finding(text)
    else:
        assert parse(text, "web.toml", UUID).memory_mib == mib


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('name = "../etc"', 'name: "../etc" is not a name for a VM (allowed: 1 to 63 letters'),
        ('name = "web\\n"', 'name: "web\\u000a" is not a name'),
        ('name = ""', "name: is empty"),
        ("name = 7", "name: 7 is not a string"),
        (f'uuid = "{"0" * 8}-0000-0000-0000-{"0" * 12}"', "uuid: the UUID of only zeros"),
        ('uuid = "web"', 'uuid: "web" is not a UUID'),
        ('memory = "1GB"', 'memory: "1GB" is not an amount of memory (allowed: MiB as a number, or a string such as'),
        ("memory = 8", "memory: 8 is too small"),
        ("memory = 1073741824", "memory: 1073741824 is too large"),
        ("memory = true", "memory: true is not a whole number"),
        ("memory = 0.5", "memory: 0.5 is not a whole number"),
        ("vcpus = 0", "vcpus: 0 is too small (allowed: a whole number from 1 to 255)"),
        ("vcpus = 1979-05-27", "vcpus: a date or time is not a whole number"),
        ('cpu = "host,migratable=off"', 'cpu: "host,migratable=off" is not a CPU model'),
        ('machine = "Q35"', 'did you mean "q35"?'),
        ('machine = "virt-9.0"', 'machine: "virt-9.0" is not known (allowed: q35, pc, or a versioned type'),
        ('accel = "kmv"', 'accel: "kmv" is not known (allowed: auto, kvm or tcg; did you mean "kvm"?)'),
        ('vnc = "true"', "allowed: true or false; write it in lower case and without quotes"),
        ("rng = 1", "rng: 1 is neither true nor false"),
        ("vncs = true", 'vncs: unknown key (did you mean "vnc"?; allowed: name, uuid, memory,'),
        ("cpus = 2", 'cpus: unknown key (did you mean "vcpus"?'),
        ('"a b\\n" = 2', '"a b\\u000a": unknown key (allowed: '),
        ("disks = 3", "disks: 3 is not a list of tables (allowed: one table [[disks]] for each)"),
        ("disks = [3]", "disks: an array is not a list of tables"),
        ("nics = {}", "nics: a single table is not a list of tables"),
    ],
)
def test_top_level_mistakes(line: str, said: str) -> None:
    assert said in finding(with_line(line))


@pytest.mark.parametrize(
    ("boot", "said"),
    [
        ("boot = true", "boot: true is not a table (allowed: a table [boot])"),
        ("boot = {}", "boot.kernel: is missing (an absolute path)"),
        ('boot.kernel = "vmlinuz"', 'boot.kernel: "vmlinuz" is not absolute'),
        ('boot.kernel = "/"', "does not name a file"),
        ('boot.kernel = "/a/../b"', "does not name a file without .."),
        ('boot.kernel = "/a\\u0000"', "characters that cannot be seen"),
        (f'boot.kernel = "/{"a" * 4095}"', "boot.kernel: is too long"),
        ('boot = {kernel = "/k", initrd = 1}', "boot.initrd: 1 is not a string"),
        ('boot = {kernel = "/k", command_line = "a\\nb"}', "boot.command_line: "),
        (f'boot = {{kernel = "/k", command_line = "{"ä" * 1024}"}}', "boot.command_line: is too long"),
        ('boot = {kernel = "/k", cmdline = ""}', 'boot.cmdline: unknown key (did you mean "command_line"?'),
    ],
)
def test_boot_mistakes(boot: str, said: str) -> None:
    assert said in finding(f'name = "web"\nmemory = 512\n{boot}')


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ('[[disks]]\npath = "/a"', "disks[0].format: is missing (qcow2 or raw)"),
        ('[[disks]]\nformat = "raw"', "disks[0].path: is missing"),
        (DISK + '[[disks]]\npath = "/a"\nformat = "qcow"', 'disks[1].format: "qcow" is not known (allowed: qcow2'),
        (DISK + 'read_only = "no"', "disks[0].read_only"),
        (DISK + DISK.replace("/web", "//web"), 'disks[1].path: "/web.raw" is used by disks[0].path already'),
        (DISK + "vnc = true", "disks[0].vnc: unknown key (vnc belongs to the whole VM: move it above"),
        ('[[nics]]\nmac = "52:54:00:12:34:56"', "nics[0].bridge: is missing"),
        (
            '[[nics]]\nbridge = "b"\nqueues = 0',
            "nics[0].queues: 0 is too small (allowed: a whole number from 1 to 16)",
        ),
        ('vcpus = 2\n[[nics]]\nbridge = "b"\nqueues = 3', "3 queues are more than the VM has vCPUs (allowed: up to 2)"),
        ('[[nics]]\nbridge = "br 0"', 'nics[0].bridge: "br 0" is not a name for a bridge'),
        ('[[nics]]\nbridge = "a2345678901234567"', "nics[0].bridge"),
        ('[[nics]]\nbridge = "b"\nmac = "53:54:00:12:34:56"', "is a group address (allowed: six bytes such as"),
        ('[[nics]]\nbridge = "b"\nmac = "00:00:00:00:00:00"', "means none"),
        ('[[nics]]\nbridge = "b"\nmac = "52-54-00-12-34-56"', "is not a MAC address"),
        (
            '[[nics]]\nbridge = "b"\nmac = "52:54:00:aa:bb:cc"\n[[nics]]\nbridge = "b"\nmac = "52:54:00:AA:BB:CC"',
            'nics[1].mac: "52:54:00:aa:bb:cc" is used by nics[0].mac already',
        ),
    ],
)
def test_device_mistakes(section: str, said: str) -> None:
    assert said in finding(MINIMAL + section)


def test_as_many_devices_as_there_are_addresses() -> None:
    disks = "".join(DISK.replace("web", f"web{n}") for n in range(MAX_DISKS))
    nics = '[[nics]]\nbridge = "b"\n' * MAX_NICS
    definition = parse(MINIMAL + disks + nics, "web.toml", UUID)
    assert len({nic.mac for nic in definition.nics}) == MAX_NICS
    assert "nics: there are 57 (allowed: at most 56)" in finding(MINIMAL + nics + '[[nics]]\nbridge = "b"\n')
    assert "disks: there are 65 (allowed: at most 64)" in finding(MINIMAL + disks + DISK)


def test_all_mistakes_at_once() -> None:
    text = 'name = "a b"\ncpus = 1\naccel = "xen"\n[[disks]]\npath = "a"\n[[nics]]\nbrige = "br0"\n'
    assert [line.split(":")[0] for line in findings(text)] == [
        "name",
        "memory",
        "accel",
        "cpus",
        "disks[0].path",
        "disks[0].format",
        "nics[0].bridge",
        "nics[0].brige",
    ]


def test_nothing_to_boot_from() -> None:
    assert "boot: there is nothing to boot from" in finding('name = "web"\nmemory = 512\n')
    assert parse('name = "web"\nmemory = 512\n' + DISK, "web.toml", UUID).boot is None


def test_host_cpu_needs_kvm() -> None:
    assert parse(with_line('cpu = "host"'), "web.toml", UUID).cpu == "host"
    assert "name a CPU model" in finding(with_line('cpu = "host"\naccel = "tcg"'))


def test_macs_are_stable_distinct_and_leave_given_ones_alone() -> None:
    one = '[[nics]]\nbridge = "b"\n'
    first, second = parse(MINIMAL + one * 2, "web.toml", UUID).nics
    assert first.mac.startswith("52:54:00:")
    assert first.mac != second.mac
    assert parse(MINIMAL + one, "other.toml", UUID).nics == (first,)
    other_vm = parse(MINIMAL + one, "web.toml", UUID.replace("6f", "70")).nics
    assert other_vm != (first,)
    # Somebody wrote the MAC that the first card would get into the second one.
    clash = parse(MINIMAL + one * 2 + f'mac = "{first.mac}"', "web.toml", UUID).nics
    assert clash[1].mac == first.mac
    assert clash[0].mac != first.mac


def test_values_get_their_normal_form() -> None:
    text = (
        with_line(f'uuid = "{UUID.upper()}"')
        + '\n[[disks]]\npath = "//srv/./a.raw"\nformat = "raw"\n[[nics]]\nbridge = "b"\nmac = "52:54:00:AA:BB:CC"'
    )
    definition = parse(text, "web.toml", "00000000-0000-4000-8000-000000000001")
    assert definition.uuid == UUID
    assert definition.disks[0].path == "/srv/a.raw"
    assert definition.nics[0].mac == "52:54:00:aa:bb:cc"


def test_new_uuid_is_checked() -> None:
    with pytest.raises(ValueError, match="is not a UUID"):
        parse(MINIMAL, "web.toml", "new")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "web"\nmemory = = 3\n', "line 2, column 10: is not valid TOML: Invalid value"),
        ('name = "web"\nname = "b"\n', "line 2, column 11: is not valid TOML: Cannot overwrite a value"),
        ('name = "web', "end of the file: is not valid TOML: Unterminated string"),
        ("vcpus = " + "9" * 5000, "the file: is not valid TOML"),
        ("a = " + "[" * 5000, "the file: tables or arrays are nested too deeply"),
    ],
)
def test_syntax_mistakes(text: str, said: str) -> None:
    assert said in finding(text)


def test_byte_order_mark_of_windows_editors() -> None:
    assert parse("\ufeff" + MINIMAL, "web.toml", UUID).name == "web"


def refusal(text: str) -> Refused | None:
    try:
        parse(text, "web.toml", UUID)
    except Refused as refused:
        return refused
    return None


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for body in (text, f"name = {text}", f'{MINIMAL}[[disks]]\npath = "{text}"', f'{MINIMAL}"{text}" = 1'):
        refused = refusal(body)
        if refused is not None:
            assert refused.findings
            assert str(refused).isprintable() or str(refused).count("\n") == len(refused.findings)


@settings(deadline=None)
@given(st.sampled_from(sorted(tomllib.loads(EXAMPLE.read_text()))))
def test_a_key_given_twice_is_a_mistake(key: str) -> None:
    assert "not valid TOML" in finding(f"{key} = 1\n{key} = 1\n")


def test_documentation_shows_what_is_said() -> None:
    page = EXAMPLE.parents[1].joinpath("vm-definition.md").read_text()
    small = page.split("```toml\n")[1].split("```")[0]
    assert parse(small, "web.toml", UUID).memory_mib == 2048
    with pytest.raises(Refused) as refused:
        parse(small.replace("GiB", "GB").replace("[[d", "cpus = 2\n[[d").replace("format", "# "), "web.toml", UUID)
    assert f"```\n{refused.value}\n```" in page
