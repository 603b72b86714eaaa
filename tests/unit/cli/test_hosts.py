from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, ScriptedAgent


def test_hosts(cli: Cli, agent: ScriptedAgent) -> None:
    here = {"name": "h1", "address": "10.0.0.1:7440", "reachable": True, "version": "0.1.0", "vms": 2}
    here |= {"accelerator": "kvm", "memory_free_mib": 2048, "problem": None, "self": True}
    gone = {"name": "h2", "address": "10.0.0.2:7440", "reachable": False, "version": None, "vms": None}
    gone |= {"accelerator": None, "memory_free_mib": None, "problem": "no route", "self": False}
    agent.ok("GET /v1/hosts", [here, gone])

    assert cli("hosts").stdout.splitlines() == [
        "HOST            ADDRESS        REACHABLE  VERSION  VMS  ACCEL   FREE  PROBLEM",
        "h1 (this host)  10.0.0.1:7440  yes        0.1.0      2  kvm    2 GiB  -",
        "h2              10.0.0.2:7440  NO         -          -  -          -  no route",
    ]
    assert json.loads(cli("hosts", "--json").stdout) == [here, gone]
