"""A lab's life: up, its agents, down, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bascule.errors import Failed, Refused
from bascule.lab.laboratory import Lab
from bascule.lab.namespaces import list_namespaces
from bascule.lab.removal import find_remains
from bascule.lab.status import look

pytestmark = pytest.mark.lab


def test_up_starts_an_agent_on_every_host_in_a_session_of_its_own(lab, stand_in):
    it = lab(hosts=2, agent_command=stand_in)
    for host in it.hosts:
        assert it.request(host.name, "GET", "/v1/host")["name"] == host.name
        agent = it.agent(host.name)
        assert os.getsid(agent.pid) == agent.pid
        assert Path(f"/proc/{agent.pid}/ns/net").stat().st_ino == Path("/run/netns", host.namespace).stat().st_ino
        assert Path(f"/proc/{agent.pid}/cwd").readlink() == Path("/")
        settings = tomllib.loads(host.places.config.read_text())
        assert settings["hosts"] == {"h1": "10.77.0.1:7440", "h2": "10.77.0.2:7440"}
        assert settings["qemu_user"] == it.qemu_uid
        assert settings["shared_directories"] == [str(it.shared_directory)]
    assert it.shared_directory.stat().st_uid == it.qemu_uid


def test_a_lab_is_known_to_every_process_by_its_name(lab, stand_in):
    name = lab(hosts=2, agent_command=stand_in).name
    same = Lab(name)
    assert [host.name for host in same.hosts] == ["h1", "h2"]
    assert same.run("h1", ["sh", "-c", "echo $BASCULE_SOCKET"]).stdout.strip() == str(same.host("h1").socket)
    assert same.run("client", ["sh", "-c", "echo $BASCULE_SOCKET"]).stdout.strip() == ""
    assert len(same.down().namespaces) == 4
    assert not same.down()


def test_an_agent_that_is_killed_can_be_started_again(lab, stand_in):
    it = lab(hosts=1, agent_command=stand_in)
    first = it.agent("h1")
    it.kill_agent("h1")
    assert not first.is_alive()
    assert look(it.name)["hosts"][0]["agent"] == {"pid": None, "alive": False, "problem": "the agent does not run"}
    with pytest.raises(Failed, match="no answer"):
        it.request("h1", "GET", "/v1/host")
    it.start_agent("h1")
    assert it.request("h1", "GET", "/v1/host")["name"] == "h1"
    with pytest.raises(Refused, match="already runs"):
        it.start_agent("h1")
    it.signal_agent("h1", signal.SIGSTOP)
    it.signal_agent("h1", signal.SIGCONT)
    it.kill_agent("h1", signal.SIGTERM)


def test_an_agent_that_ends_shows_its_last_words_and_nothing_is_left(lab_names):
    lab = Lab(lab_names())
    with pytest.raises(Failed) as caught:
        lab.up(
            hosts=2,
            agent_command=lambda member, _places: ["sh", "-c", f"echo the journal of {member.name} is broken; exit 5"],
        )
    assert "ended with status 5" in caught.value.message
    assert "the journal of h1 is broken" in caught.value.message
    assert not find_remains(lab.name)


def test_an_agent_that_never_answers_is_given_up(lab_names):
    lab = Lab(lab_names())
    with pytest.raises(Failed, match=r"does not answer after 0\.2 s"):
        lab.up(hosts=1, agent_command=lambda _member, _places: ["sleep", "1000"], agent_deadline_s=0.2)
    assert not find_remains(lab.name)


def test_a_second_lab_of_the_same_name_is_refused_and_the_first_lives_on(lab, stand_in):
    it = lab(hosts=1, agent_command=stand_in)
    with pytest.raises(Refused, match="there already") as caught, Lab(it.name) as second:
        second.up(hosts=2, agent_command=stand_in)
    assert f"bascule lab down {it.name}" in caught.value.remedy
    assert it.request("h1", "GET", "/v1/host")


def test_remains_are_named_as_such(lab_names, stand_in):
    lab = Lab(lab_names())
    lab.places.directory.mkdir(parents=True)
    with pytest.raises(Refused, match="remains"):
        lab.up(hosts=1, agent_command=stand_in)
    assert look(lab.name)["state"] == "broken"
    assert lab.down().directories


def test_namespaces_without_a_directory_are_remains_as_well(lab_names, stand_in):
    lab = Lab(lab_names())
    subprocess.run(["ip", "netns", "add", f"bsc-{lab.name}-h7"], check=True)
    with pytest.raises(Refused, match="remains"):
        lab.up(hosts=1, agent_command=stand_in)
    assert not lab.places.directory.exists()
    removed = lab.down()
    assert removed.namespaces == [f"bsc-{lab.name}-h7"]
    assert not removed.directories


def test_an_impossible_lab_is_refused_before_anything_is_touched(lab_names, stand_in):
    lab = Lab(lab_names())
    with pytest.raises(Refused, match="50 hosts"):
        lab.up(hosts=50, agent_command=stand_in)
    assert not find_remains(lab.name)


def test_status_tells_hosts_agents_vms_and_links(lab, stand_in):
    it = lab(hosts=1, link_bit_s=10**9, agent_command=stand_in)
    it.cut_link("h1")
    seen = look(it.name)
    assert json.loads(json.dumps(seen)) == seen
    assert (seen["state"], seen["link"]) == ("up", "1gbit")
    (host,) = seen["hosts"]
    assert host["agent"] == {"pid": it.agent("h1").pid, "alive": True, "problem": None}
    assert host["vms"] == [{"name": "vm-of-h1", "state": "running"}]
    assert (host["link"], seen["client"]["link"]) == ("black hole", "up")


def test_a_small_shared_directory_fills_up_for_all_hosts(lab, stand_in):
    it = lab(hosts=1, shared_size_mib=1, agent_command=stand_in)
    fill = ["dd", "if=/dev/zero", f"of={it.shared_directory}/disk", "bs=64k", "count=32"]
    assert "No space left" in it.run("h1", fill).stderr
    it.give_to_qemu(it.shared_directory / "disk")
    assert (it.shared_directory / "disk").stat().st_uid == it.qemu_uid
    assert it.down().mounts == [str(it.shared_directory)]


def test_down_ends_what_will_not_end_and_what_hides(lab, stand_in):
    it = lab(hosts=1, agent_command=stand_in)
    stubborn = it.popen("h1", ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"], stdout=subprocess.PIPE)
    assert stubborn.stdout.readline() == b"up\n"
    # A process that an `up` was killed over before it entered its namespace: known by its mark alone.
    marked = subprocess.Popen(["sleep", "1000"], env={**os.environ, "BASCULE_LAB_MEMBER": it.name})
    # One without the mark: known by its namespace alone, though another user's in a session of its own.
    hide = ["env", "-u", "BASCULE_LAB_MEMBER", "setsid", "setpriv", f"--reuid={it.qemu_uid}", "--clear-groups"]
    inside = it.popen("h1", [*hide, "sh", "-c", "echo up; exec sleep 1000"], stdout=subprocess.PIPE)
    assert inside.stdout.readline() == b"up\n"
    stopped = it.popen("client", ["sleep", "1000"])
    stopped.send_signal(signal.SIGSTOP)
    bystander = subprocess.Popen(["sleep", "1000"], env={**os.environ, "BASCULE_LAB_MEMBER": f"{it.name}x"})
    try:
        it.down()
        ended = [child.poll() for child in (stubborn, marked, inside, stopped, bystander)]
    finally:
        for child in (stubborn, marked, inside, stopped, bystander):
            child.kill()
            child.communicate()
    assert ended == [-signal.SIGKILL, -signal.SIGTERM, -signal.SIGTERM, -signal.SIGTERM, None]


def test_down_from_inside_is_refused(lab, stand_in):
    it = lab(hosts=1, agent_command=stand_in)
    code = f"from bascule.lab.laboratory import Lab; Lab({it.name!r}).down()"
    done = it.run("h1", [sys.executable, "-c", code])
    assert "from inside it" in done.stderr
    assert it.request("h1", "GET", "/v1/host")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_context_manager_leaves_nothing_whatever_the_body_raises(lab_names, stand_in, error):
    name = lab_names()
    with pytest.raises(error), Lab(name) as lab:  # noqa: PT012 - where it is raised is the point
        lab.up(hosts=1, agent_command=stand_in)
        raise error
    assert not list_namespaces(name)
