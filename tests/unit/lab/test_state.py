from __future__ import annotations

import json

import pytest

from bascule.errors import Failed
from bascule.lab import state
from bascule.lab.processes import Process
from bascule.lab.state import LabRecord


def a_record() -> LabRecord:
    return LabRecord(
        "x",
        2,
        10**9,
        complete=True,
        agent_commands={"h1": ["agent", "--config", "a b"], "h2": ["agent"]},
        agents={"h1": Process(17, 4711)},
    )


def test_a_record_comes_back_as_it_was(tmp_path):
    path = tmp_path / "lab.json"
    state.write(path, a_record())
    state.write(path, a_record())
    assert state.read(path) == a_record()
    assert [entry.name for entry in tmp_path.iterdir()] == ["lab.json"]


def test_no_record_is_none(tmp_path):
    assert state.read(tmp_path / "lab.json") is None


@pytest.mark.parametrize("content", ["", "{", "[]", "7", "{}", '{"schema": 1}', '{"schema": 2, "name": "x"}'])
def test_a_record_that_cannot_be_read_names_the_way_out(tmp_path, content):
    path = tmp_path / "x" / "lab.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(Failed, match=r"cannot read the lab's record") as caught:
        state.read(path)
    assert caught.value.remedy.endswith("bascule lab down x")


def test_a_restart_of_the_machine_makes_recorded_processes_strangers():
    data = json.loads(json.dumps(a_record().to_dict() | {"boot_id": "another"}))
    old = LabRecord.from_dict(data)
    assert a_record().live_processes() == [Process(17, 4711)]
    assert not old.of_this_boot
    assert old.live_processes() == []


def test_members_are_the_hosts_and_the_client():
    assert [member.name for member in a_record().members] == ["h1", "h2", "client"]
