from __future__ import annotations

import os

import pytest

from bascule.errors import Refused
from bascule.lab import requirements
from bascule.lab.requirements import check_machine, check_root, has_ipv6


@pytest.fixture
def as_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_everything_that_is_missing_is_said_at_once(tmp_path, monkeypatch, as_root):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("bascule.lab.namespaces._SBIN", ())
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(Refused) as caught:
        check_machine("x", "build lab x", root=closed / "labs", tun=tmp_path / "tun")
    subjects = [finding.subject for finding in caught.value.findings]
    assert subjects[:4] == ["ip", "bridge", "tc", str(tmp_path / "tun")]
    assert str(closed) in subjects
    assert all(finding.remedy for finding in caught.value.findings)
    assert caught.value.message.startswith("cannot build lab x: ")


def test_programs_are_found_where_only_roots_login_looks(tmp_path, monkeypatch):
    program = tmp_path / "sbin" / "ip"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("bascule.lab.namespaces._SBIN", (str(program.parent),))
    assert requirements.find_program("ip") == str(program)


def test_a_number_that_belongs_to_somebody_is_not_taken(monkeypatch, as_root):
    monkeypatch.setattr(requirements, "qemu_uid", lambda _lab: 0)
    with pytest.raises(Refused) as caught:
        check_machine("x", "build lab x")
    assert "number 0 belongs to root here" in str(caught.value)


def test_anybody_but_root_is_told_so_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Refused, match="only root") as caught:
        check_machine("x", "build lab x", tun=tmp_path / "tun")
    assert caught.value.findings == ()
    with pytest.raises(Refused, match="cannot remove"):
        check_root("remove lab x")


def test_ipv6_is_a_yes_or_a_no():
    assert has_ipv6() in (True, False)
