from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.vm.parse import parse
from bascule.vm.serialise import to_dict

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Cli, Records, ScriptedAgent

UUID = "6f9619ff-8b86-4d01-b42d-00c04fc964ff"


def test_define_sends_the_text_and_where_it_is_from(
    cli: Cli, agent: ScriptedAgent, records: Records, tmp_path: Path
) -> None:
    agent.ok("POST /v1/vms", records.vm(state="stopped"))
    file = tmp_path / "web.toml"
    file.write_text('name = "web"\n')

    assert "defined vm web; start it with: bascule vm start web" in cli("vm", "define", str(file)).stdout
    assert cli("vm", "define", "-", stdin='name = "web2"\n').returncode == 0
    assert agent.bodies("POST", "/v1/vms") == [
        {"toml": 'name = "web"\n', "origin": str(file)},
        {"toml": 'name = "web2"\n', "origin": "standard input"},
    ]


def test_define_a_file_that_cannot_be_read(cli: Cli, agent: ScriptedAgent, tmp_path: Path) -> None:
    binary = tmp_path / "disk.qcow2"
    binary.write_bytes(b"QFI\xfb\xff")

    absent = cli("vm", "define", str(tmp_path / "absent.toml"))
    assert absent.returncode == 1
    assert "absent.toml: No such file or directory" in absent.stderr
    assert cli("vm", "define", str(binary)).returncode == 1
    assert agent.asked == []


def test_list(cli: Cli, agent: ScriptedAgent, records: Records) -> None:
    agent.ok("GET /v1/vms", [records.vm(), records.vm(name="db", state="stopped", pid=None, accelerator=None)])
    listed, as_json = cli("vm", "list"), cli("vm", "list", "--json")

    assert listed.stdout.splitlines() == [
        "NAME  STATE    MEMORY  VCPUS  ACCEL   PID  MOVE",
        "web   running   1 GiB      2  tcg    4711  -",
        "db    stopped   1 GiB      2  -         -  -",
    ]
    assert [vm["name"] for vm in json.loads(as_json.stdout)] == ["web", "db"]


def test_a_vm_that_is_just_coming_in_has_no_facts_yet(cli: Cli, agent: ScriptedAgent, records: Records) -> None:
    unknown = dict.fromkeys(("memory_mib", "vcpus", "accelerator", "pid", "definition"))
    agent.ok("GET /v1/vms", [records.vm(state="incoming", move="m-1", **unknown)])
    agent.ok("GET /v1/vms/web", records.vm(state="incoming", **unknown))

    assert cli("vm", "list").stdout.splitlines()[1].split() == ["web", "incoming", "-", "-", "-", "-", "m-1"]
    assert "memory_mib:     -\n" in cli("vm", "show", "web").stdout
    assert cli("vm", "show", "web", "--toml").returncode == 1


def test_the_definition_as_toml_can_be_defined_again(cli: Cli, agent: ScriptedAgent, records: Records) -> None:
    definition = parse('name = "web"\nmemory = "256MiB"\n[boot]\nkernel = "/k"\n', "test", UUID)
    agent.ok("GET /v1/vms/web", records.vm(definition=to_dict(definition)))
    toml = cli("vm", "show", "web", "--toml").stdout

    assert parse(toml, "again", UUID) == definition


def test_an_empty_list_says_what_to_do(cli: Cli, agent: ScriptedAgent) -> None:
    agent.ok("GET /v1/vms", [])

    assert "bascule vm define" in cli("vm", "list").stdout
    assert json.loads(cli("vm", "list", "--json").stdout) == []


def test_show(cli: Cli, agent: ScriptedAgent, records: Records) -> None:
    running = records.vm(vnc="/run/bascule/vms/web/vnc.sock")
    running["definition"]["vnc"] = True
    agent.ok("GET /v1/vms/web", running)
    shown = cli("vm", "show", "web").stdout

    assert "state:          running\n" in shown
    assert "nics:           bridge br0, mac 52:54:00:00:00:01\n" in shown
    assert "move:           -\n" in shown
    assert "vnc:            /run/bascule/vms/web/vnc.sock\n" in shown
    assert json.loads(cli("vm", "show", "web", "--json").stdout)["epoch"] == 1
    assert cli("vm", "show", "web", "--json", "--toml").returncode == 2


def test_names_are_quoted_on_the_wire(cli: Cli, agent: ScriptedAgent) -> None:
    assert cli("vm", "show", "../host?x#y").returncode == 1
    assert agent.asked[0].path == "/v1/vms/..%2Fhost%3Fx%23y"


def test_start_stop_delete(cli: Cli, agent: ScriptedAgent, records: Records) -> None:
    agent.ok("POST /v1/vms/web/start", records.vm())
    agent.ok("POST /v1/vms/web/stop", records.vm(state="stopped"))
    agent.ok("DELETE /v1/vms/web", {})

    assert cli("vm", "start", "web").stdout == "vm web is running (accelerator tcg)\n"
    assert cli("vm", "stop", "web", "--timeout", "5m").stdout == "vm web is stopped\n"
    assert json.loads(cli("vm", "stop", "web", "--force", "--json").stdout)["state"] == "stopped"
    assert cli("vm", "delete", "web").returncode == 0
    assert agent.bodies("POST", "/v1/vms/web/stop") == [
        {"force": False, "timeout_s": 300.0},
        {"force": True, "timeout_s": 60.0},
    ]
