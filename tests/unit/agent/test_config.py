"""The agent's settings: read as they are meant, and every mistake reported at once."""

import os
import pwd
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from bascule.agent.config import AgentConfig, load
from bascule.errors import Refused

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "agent.toml"
        path.write_text(text)
        return path

    return write


def findings(path: Path) -> dict[str, str]:
    with pytest.raises(Refused) as caught:
        load(path)
    assert f"read the agent's configuration {path}" in caught.value.message
    return {finding.subject: finding.problem for finding in caught.value.findings}


def test_every_setting_is_read(write: Write) -> None:
    config = load(
        write(
            """
            name = "h1"
            socket = "/run/x/agent.sock"
            state_directory = "/var/lib/x"
            runtime_directory = "/run/x"
            cache_directory = "/var/cache/x"
            migration_address = "10.0.0.1"
            migration_ports = [50000, 50010]
            qemu_binary = "/usr/bin/qemu-system-x86_64"
            qemu_user = 940
            shared_directories = ["/shared", "/mnt/other"]
            proof_kernel = "/boot/vmlinuz"
            keep_moves = 1000
            [hosts]
            h1 = "10.0.0.1:7440"
            h2 = "10.0.0.2"
            """
        )
    )
    assert config == AgentConfig(
        name="h1",
        socket=Path("/run/x/agent.sock"),
        state_directory=Path("/var/lib/x"),
        runtime_directory=Path("/run/x"),
        cache_directory=Path("/var/cache/x"),
        hosts={"h1": "10.0.0.1:7440", "h2": "10.0.0.2"},
        migration_address="10.0.0.1",
        migration_ports=(50000, 50010),
        qemu_binary="/usr/bin/qemu-system-x86_64",
        qemu_user=940,
        shared_directories=(Path("/shared"), Path("/mnt/other")),
        proof_kernel=Path("/boot/vmlinuz"),
        keep_moves=1000,
    )
    assert config.journal_path == Path("/var/lib/x/journal.db")
    assert (config.uid, config.gid) == (940, 940)


def test_an_empty_file_is_a_whole_configuration(write: Write) -> None:
    config = load(write(""))
    assert config == AgentConfig(name=socket.gethostname().split(".")[0])
    assert config.socket == Path("/run/bascule/agent.sock")


def test_a_user_is_found_by_name(write: Write) -> None:
    config = load(write(f'qemu_user = "{pwd.getpwuid(os.getuid()).pw_name}"'))
    assert config.uid == os.getuid()


def test_hosts_are_found_by_name_with_the_usual_port_if_none_is_given() -> None:
    config = AgentConfig(name="h1", hosts={"h1": "10.0.0.1:8000", "h2": "10.0.0.2"})
    assert config.address_of("h1") == "10.0.0.1:8000"
    assert config.address_of("h2") == "10.0.0.2:7440"


def test_an_unknown_host_is_refused_with_those_that_are_known() -> None:
    config = AgentConfig(name="h1", hosts={"h2": "10.0.0.2", "h1": "10.0.0.1"})
    with pytest.raises(Refused, match="host h3 is not known to host h1") as caught:
        config.address_of("h3")
    assert caught.value.remedy.startswith("known hosts: h1, h2; add others under [hosts]")
    with pytest.raises(Refused) as caught:
        AgentConfig(name="h1").address_of("h2")
    assert caught.value.remedy.startswith("known hosts: none")


def test_all_mistakes_are_reported_at_once(write: Write) -> None:
    found = findings(
        write(
            """
            name = ""
            socket = "agent.sock"
            state_directory = 5
            migration_ports = [50010, 50000]
            qemu_user = "nobody-of-this-name"
            shared_directories = "/shared"
            hots = { h1 = "10.0.0.1" }
            hosts = { h1 = 7440 }
            """
        )
    )
    assert found == {
        "name": "has to be a text in quotes",
        "socket": "has to be an absolute path in quotes",
        "state_directory": "has to be an absolute path in quotes",
        "migration_ports": "has to be two ports, the lower one first, such as [49152, 49215]",
        "qemu_user": "names no user of this host; make one: useradd --system nobody-of-this-name",
        "shared_directories": "has to be a list of absolute paths",
        "hots": "is not a setting",
        "hosts": 'has to be a table of names and addresses, such as h2 = "10.0.0.2:7440"',
    }


@pytest.mark.parametrize(
    "line",
    [
        "migration_ports = [0, 5]",
        "migration_ports = [5, 65536]",
        "migration_ports = [5]",
        "migration_ports = [1, 2, 3]",
        'migration_ports = ["1", "2"]',
        "migration_ports = 49152",
        "qemu_user = true",
        "qemu_user = 1.5",
        'shared_directories = ["/good", "relative"]',
        'hosts = { h1 = "" }',
        'hosts = "h1"',
        'proof_kernel = ""',
        "name = 7",
    ],
)
def test_each_mistake_names_its_setting(write: Write, line: str) -> None:
    assert list(findings(write(line))) == [line.split(" ", maxsplit=1)[0]]


def test_an_unknown_setting_is_told_the_known_ones(write: Write) -> None:
    with pytest.raises(Refused) as caught:
        load(write("port = 7440"))
    (finding,) = caught.value.findings
    assert "migration_ports" in finding.remedy


@pytest.mark.parametrize("content", [b"name = ", b'name = "h1"\nname = "h2"', b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(content)
    with pytest.raises(Refused, match=f"cannot read the agent's configuration {path}: it is not TOML"):
        load(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file or directory") as caught:
        load(tmp_path / "none.toml")
    assert "--config" in caught.value.remedy


@pytest.mark.parametrize("value", ["0", "19", "100001", "true", '"many"', "20.5"])
def test_how_many_moves_are_kept_has_bounds(write: Write, value: str) -> None:
    assert findings(write(f"keep_moves = {value}")) == {"keep_moves": "has to be a number from 20 to 100000"}
