from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from bascule.errors import Refused
from bascule.lab import locking
from bascule.lab.locking import create_and_lock, is_locked, lock_existing

# Locks a directory, then runs `ip` (a stand-in found on PATH) as building a lab does.
HOLDER = """
import sys
from pathlib import Path
from bascule.lab import locking
from bascule.lab.locking import create_and_lock
from bascule.lab.namespaces import Batch, run_batch
with create_and_lock(Path(sys.argv[1]), wait_s=0) as lock:
    run_batch(Batch("ip", None, ("link show",), "test"), keep_open=[lock])
"""


def test_a_new_directory_is_locked_and_every_user_may_enter_it(tmp_path):
    directory = tmp_path / "labs" / "x"
    before = os.umask(0o077)
    try:
        with create_and_lock(directory, wait_s=0) as lock:
            assert lock is not None
            assert is_locked(directory)
    finally:
        os.umask(before)
    assert not is_locked(directory)
    for made in (directory, directory.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o755


def test_a_directory_that_is_there_is_not_locked_by_its_second_maker(tmp_path):
    with create_and_lock(tmp_path / "x", wait_s=0), create_and_lock(tmp_path / "x", wait_s=0) as second:
        assert second is None
    with create_and_lock(tmp_path / "x", wait_s=0) as third:
        assert third is None
        assert not is_locked(tmp_path / "x")


def test_a_lock_that_is_held_is_refused_after_the_wait(tmp_path):
    with (
        create_and_lock(tmp_path / "x", wait_s=0),
        pytest.raises(Refused, match="another process"),
        lock_existing(tmp_path / "x", wait_s=0.05),
    ):
        pytest.fail("locked twice")


def test_a_directory_that_is_removed_under_the_lock_is_made_anew_by_the_next(tmp_path):
    directory = tmp_path / "x"
    with lock_existing(directory, wait_s=0):
        directory.rmdir()
    with lock_existing(directory, wait_s=0) as lock:
        assert os.fstat(lock).st_ino == directory.stat().st_ino


@pytest.mark.parametrize("lock_anew", [lock_existing, create_and_lock])
def test_a_lock_on_a_directory_that_was_removed_meanwhile_does_not_count(tmp_path, monkeypatch, lock_anew):
    directory = tmp_path / "x"
    take = locking._try
    taken = []

    def take_late(descriptor):
        """Take the lock when its last holder, who removed the directory, has just let go of it."""
        if not taken:
            directory.rmdir()
        taken.append(descriptor)
        return take(descriptor)

    monkeypatch.setattr(locking, "_try", take_late)
    with lock_anew(directory, wait_s=0) as lock:
        assert os.fstat(lock).st_ino == directory.stat().st_ino
    assert len(taken) == 2


def test_what_a_killed_holder_had_begun_holds_the_lock_to_its_end(tmp_path):
    gate, directory = tmp_path / "gate", tmp_path / "x"
    os.mkfifo(gate)
    stand_in = tmp_path / "ip"
    stand_in.write_text(f"#!/bin/sh\necho begun >{gate}\nread line <{gate}\n")
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(directory)], env=environment)
    assert gate.read_text() == "begun\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert is_locked(directory)
    gate.write_text("end\n")
    give_up_s = time.monotonic() + 10
    while is_locked(directory):
        assert time.monotonic() < give_up_s
