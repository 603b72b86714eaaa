"""The set-up scripts refuse in one sentence what they cannot do, before they touch anything.

Each test runs a copy of the scripts with a few programs replaced, apt and Python among them: a check that is missing
shows as another message, never as a machine that was changed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
NEEDED = ("sh", "dirname", "cat", "grep", "sha256sum", "flock", "mktemp", "tail", "rm", "unshare", "true")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A clone's scripts, with a `bin` beside them that holds all the programs they find."""
    shutil.copytree(ROOT / "scripts", tmp_path / "clone" / "scripts")
    (tmp_path / "bin").mkdir()
    for name in NEEDED:
        found = shutil.which(name)
        assert found, name
        (tmp_path / "bin" / name).symlink_to(found)
    for name, text in {
        "uname": '[ "$1" = -m ] && echo x86_64 || echo Linux',
        "id": "echo 0",
        "apt-get": "exit 99",
        "dpkg-query": "exit 99",
        "python3": "exit 99",
        "modprobe": "exit 99",
    }.items():
        program(tmp_path, name, text)
    return tmp_path


def program(where: Path, name: str, text: str) -> None:
    path = where / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def refusal(where: Path, script: str, *wrapper: str) -> str:
    """Run the script, by `wrapper` if given, and return the one line it says."""
    before = {path.name for path in (where / "clone").iterdir()}
    done = subprocess.run(
        [*wrapper, where / "clone" / "scripts" / script],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": str(where / "bin")},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert {path.name for path in (where / "clone").iterdir()} == before
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("script", ["setup", "demo", "test", "check", "install-host"])
def test_another_system(copy: Path, script: str) -> None:
    program(copy, "uname", "echo Darwin")

    assert refusal(copy, script) == (
        "bascule: this is Darwin, and Bascule moves VMs between Linux hosts: run it on Debian 12 or newer or on Ubuntu"
    )


@pytest.mark.parametrize("script", ["setup", "install-host"])
def test_another_architecture(copy: Path, script: str) -> None:
    program(copy, "uname", '[ "$1" = -m ] && echo aarch64 || echo Linux')

    assert "architecture is aarch64" in refusal(copy, script)


@pytest.mark.parametrize("script", ["setup", "install-host"])
@pytest.mark.parametrize("absent", ["apt-get", "dpkg-query"])
def test_no_apt(copy: Path, script: str, absent: str) -> None:
    (copy / "bin" / absent).unlink()

    assert "there is no apt here" in refusal(copy, script)


@pytest.mark.parametrize("script", ["setup", "install-host"])
def test_not_root(copy: Path, script: str) -> None:
    program(copy, "id", "echo 1000")

    assert re.search(r"this needs root, .*: run it again with sudo /.*/scripts/" + script, refusal(copy, script))


@pytest.mark.lab
@pytest.mark.parametrize("script", ["setup", "install-host"])
def test_no_tun_device(copy: Path, script: str) -> None:
    hidden = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", '/bin/mount -t tmpfs none /dev/net && exec "$0"')

    line = refusal(copy, script, *hidden)
    assert line.startswith("bascule: /dev/net/tun cannot be opened, so VMs would have no network: run 'modprobe tun'")


@pytest.mark.lab
def test_no_right_to_make_namespaces(copy: Path) -> None:
    without = ("/usr/bin/setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")

    assert "this root may not make network namespaces" in refusal(copy, "setup", *without)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_plain_sh(script: Path) -> None:
    first, *_ = script.read_text().splitlines()

    assert first == ("# shellcheck shell=sh" if script.name == "lib.sh" else "#!/bin/sh")
    subprocess.run(["sh", "-n", script], check=True, timeout=60)


def test_the_tools_that_build_our_wheel_are_all_taken_from_the_lock_file() -> None:
    text = (ROOT / "scripts" / "install-host").read_text()
    match = re.search(r"keep = /\^\(([a-z|-]+)\)==/", text)
    assert match
    taken = set(match[1].split("|"))
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "dev.lock").read_text(), re.MULTILINE))

    assert taken <= locked
    needed, todo = set[str](), ["hatchling"]
    while todo:
        name = todo.pop()
        if name not in needed:
            needed.add(name)
            todo += [
                re.split(r"[^A-Za-z0-9-]", requirement)[0]
                for requirement in requires(name) or ()
                if "extra" not in requirement and "python_version <" not in requirement
            ]
    assert needed == taken


def test_the_example_configuration_tells_the_defaults(tmp_path: Path) -> None:
    from bascule.agent.config import READERS, AgentConfig, load  # noqa: PLC0415

    text = (ROOT / "packaging" / "agent.toml").read_text()
    assert load(ROOT / "packaging" / "agent.toml").hosts == {}
    told = re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert set(re.findall(r"^(\w+) = ", told, re.MULTILINE)) - {"h1", "h2"} == set(READERS) - {"hosts"}
    file = tmp_path / "agent.toml"
    file.write_text(told.replace('"bascule-qemu"', "12345"))

    config, default = load(file), AgentConfig("h1")
    assert config.hosts == {"h1": "10.0.0.1:7440", "h2": "10.0.0.2:7440"}
    for key in set(READERS) - {"name", "hosts", "shared_directories", "proof_kernel", "qemu_user"}:
        assert getattr(config, key) == getattr(default, key), key
    assert f'qemu_user = "{default.qemu_user}"' in told
    assert f"u {default.qemu_user} " in (ROOT / "packaging" / "bascule.sysusers").read_text()
