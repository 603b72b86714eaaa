from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bascule.agent import config
from bascule.lab.agents import environment, log_tail, real_agent, write_config
from bascule.lab.names import Member, qemu_uid
from bascule.lab.places import Places

HOSTS = [Member.host(1), Member.host(2)]


@pytest.fixture
def places(tmp_path):
    places = Places("x", tmp_path)
    places.hosts.mkdir(parents=True)
    return places


@pytest.mark.parametrize("kernel", [None, Path('/boot/vmlinuz "6" é')])
def test_the_agent_reads_the_settings_as_meant(places, kernel):
    for member in HOSTS:
        write_config(places, member, HOSTS, {"proof_kernel": str(kernel)} if kernel else {})
    host = places.host("h2")
    settings = config.load(host.config)
    assert settings.name == "h2"
    assert (settings.socket, settings.state_directory, settings.runtime_directory) == (
        host.socket,
        host.state,
        host.run,
    )
    assert settings.hosts == {"h1": "10.77.0.1:7440", "h2": "10.77.0.2:7440"}
    assert settings.migration_address == "10.77.0.2"
    assert settings.uid == settings.gid == qemu_uid("x")
    assert settings.shared_directories == (places.shared,)
    assert settings.proof_kernel == kernel


def test_the_real_agent_runs_under_this_python(places):
    argv = real_agent(HOSTS[0], places.host("h1"))
    assert argv[0] == sys.executable
    assert argv[-2:] == ["--insecure-listen", "10.77.0.1:7440"]


def test_the_environment_finds_this_bascule_and_the_hosts_agent(places, monkeypatch):
    monkeypatch.setenv("BASCULE_SOCKET", "/elsewhere")
    monkeypatch.setenv("PATH", "/bin")
    inside = environment("x", places.host("h1"))
    assert inside["BASCULE_SOCKET"] == str(places.host("h1").socket)
    assert inside["PATH"] == f"{Path(sys.executable).parent}:/bin"
    assert inside["BASCULE_LAB_MEMBER"] == "x"
    assert "BASCULE_SOCKET" not in environment("x", None)
    assert os.environ["BASCULE_SOCKET"] == "/elsewhere"


def test_the_end_of_a_log(places):
    host = places.host("h1")
    assert log_tail(host) == "    (empty)"
    host.directory.mkdir()
    host.log.write_bytes(b"".join(b"line %d \xff\n" % number for number in range(10_000)))
    lines = log_tail(host).splitlines()
    assert len(lines) == 15
    assert lines[-1].startswith("    line 9999")
