"""Which VMs may have run here, and that nothing is remembered of those that have left."""

from pathlib import Path

from bascule.agent.run_marks import RunMarks


def marks(folder: Path) -> RunMarks:
    made = RunMarks(folder / "ran")
    made.open()
    return made


def test_a_mark_outlives_the_agent(tmp_path: Path) -> None:
    assert marks(tmp_path).set("web", 2)
    again = marks(tmp_path)
    assert again.may_have_run("web")
    assert not again.may_have_run("api")
    assert not again.set("web", 2), "it is not the first time"


def test_a_vm_that_qemu_did_not_run_leaves_no_mark(tmp_path: Path) -> None:
    made = marks(tmp_path)
    made.set("web", 2)
    made.unset("web", 2)
    assert not made.may_have_run("web")


def test_the_marks_of_vms_that_have_left_are_removed(tmp_path: Path) -> None:
    made = marks(tmp_path)
    for uuid, epoch in (("web", 2), ("web", 3), ("api", 1), ("db", 4)):
        made.set(uuid, epoch)
    made.forget("db")
    made.keep_only({"web"})
    assert [made.may_have_run(uuid) for uuid in ("web", "api", "db")] == [True, False, False]
    assert sorted(file.name for file in (tmp_path / "ran").iterdir()) == ["web.2", "web.3"]
