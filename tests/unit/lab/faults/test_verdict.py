"""Each finding is found, and an innocent case is acquitted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bascule.lab.faults.case import Case, Fault, Side
from bascule.lab.faults.evidence import Evidence, Word
from bascule.lab.faults.injection import Hit
from bascule.lab.faults.qemu_watch import WatchedQemu
from bascule.lab.faults.settling import waits_for_start
from bascule.lab.faults.verdict import held, judge, may_be_lost
from bascule.lab.guest_sequence import SequenceReport
from bascule.lab.processes import Process

SOURCE, DESTINATION = Side.SOURCE, Side.DESTINATION
STOP_S, RESUME_S, NOW_S = 10.0, 10.02, 20.0
REPORT = {"outcome": "completed", "total_s": 5.1, "blackout_ms": 20.0}


def qemu(host: str, begin_s: float | None, end_s: float | None = None) -> WatchedQemu:
    watched = WatchedQemu(host, Process(1 if host == "h1" else 2, 0))
    if begin_s is not None:
        watched.note(running=True, at_s=begin_s)
    if end_s is not None:
        watched.note(running=False, at_s=end_s)
    return watched


def record(outcome: str | None, reason: str = "because") -> dict[str, Any]:
    return {"outcome": outcome, "reason": reason}


def facts(*names: str) -> tuple[dict[str, Any], ...]:
    return tuple({"name": name} for name in names)


@pytest.fixture
def seen() -> Evidence:
    """A live move that has succeeded."""
    evidence = Evidence(Case.parse("live: "), {SOURCE: "h1", DESTINATION: "h2"}, began_s=5.0, boot_before="boot")
    evidence.exit_status, evidence.settled, evidence.ended_s = 0, True, NOW_S
    evidence.qemus = [qemu("h1", 1.0, STOP_S), qemu("h2", RESUME_S)]
    evidence.running = (DESTINATION,)
    evidence.words = {
        SOURCE: Word("absent", record("completed"), facts("CopyCompleted"), REPORT),
        DESTINATION: Word("running", record("completed", ""), facts("IncomingLoaded")),
    }
    evidence.story = [(6.0, "phase checking"), (11.0, "phase ended")]
    evidence.disk = SequenceReport(0, 120, ("boot",), ())
    evidence.guest = {
        "corrupt_blocks": 0,
        "corruption": [],
        "boot_id": "boot",
        "sequence": {"number": 100, "conflicts": 0, "running": True},
    }
    return evidence


def test_a_move_that_succeeded_is_acquitted(seen: Evidence) -> None:
    assert judge(seen) == []


def guest(**changes: Any) -> Callable[[Evidence], None]:
    def change(seen: Evidence) -> None:
        seen.guest = {**(seen.guest or {}), **changes}

    return change


def words(side: Side, said: Word) -> Callable[[Evidence], None]:
    return lambda seen: seen.words.update({side: said})


def report(**changes: Any) -> Callable[[Evidence], None]:
    def change(seen: Evidence) -> None:
        word = seen.words[SOURCE]
        seen.words[SOURCE] = replace(word, report={**(word.report or {}), **changes})

    return change


def setting(**changes: Any) -> Callable[[Evidence], None]:
    def change(seen: Evidence) -> None:
        for name, value in changes.items():
            setattr(seen, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (report(outcome="failed"), "untrue"),
        (report(total_s=3.5), "untrue"),
        (report(blackout_ms=41.0), "untrue"),
        (setting(qemus=[qemu("h1", 1.0, RESUME_S + 0.001), qemu("h2", RESUME_S)]), "doubled"),
        (setting(forks=["record 7 was sent twice"]), "doubled"),
        (setting(running=(SOURCE, DESTINATION)), "doubled"),
        (guest(sequence={"number": 100, "conflicts": 1, "running": True}), "doubled"),
        (setting(disk=SequenceReport(0, 120, ("boot",), ("record 7 follows another: two guests wrote",))), "doubled"),
        (setting(running=()), "lost"),
        (setting(guest=None), "lost"),
        (guest(boot_id="another"), "lost"),
        (guest(corrupt_blocks=1), "corrupted"),
        (guest(sequence={"number": 100, "conflicts": 0, "running": False}), "corrupted"),
        (setting(disk=SequenceReport(0, 99, ("boot",), ())), "corrupted"),
        (setting(disk=SequenceReport(0, 120, ("boot",), ("record 7 is missing",))), "corrupted"),
        (setting(leftovers=["on h1, a tap"]), "leftovers"),
        (setting(exit_status=3), "untrue"),
        (setting(exit_status=1), "untrue"),
        (setting(exit_status=70), "untrue"),
        (words(SOURCE, Word("absent", record("failed"))), "untrue"),
        (words(SOURCE, Word("absent", record("unknown"))), "untrue"),
        (words(SOURCE, Word("absent", record("completed", ""))), "untrue"),
        (words(SOURCE, Word("stopped", record("completed"))), "untrue"),
        (words(DESTINATION, Word("running", record("refused"), facts("IncomingLoaded"))), "untrue"),
        (words(DESTINATION, Word("stopped", record("completed"), facts("IncomingLoaded"))), "untrue"),
        (words(SOURCE, Word("absent", record("completed"), status="vm guest runs on h1")), "untrue"),
        (words(DESTINATION, Word("running", record("completed"), status="vm guest belongs to h2")), "untrue"),
        (setting(settled=False), "stuck"),
        (setting(next_move="refused"), "stuck"),
    ],
)
def test_each_thing_that_must_not_be_is_found(seen: Evidence, change: Callable[[Evidence], None], kind: str) -> None:
    change(seen)
    assert kind in {finding.kind for finding in judge(seen)}


def test_the_first_sentence_of_status_may_say_what_is_so(seen: Evidence) -> None:
    seen.words[SOURCE] = replace(seen.words[SOURCE], status="vm guest belongs to h2")
    seen.words[DESTINATION] = replace(seen.words[DESTINATION], status="vm guest runs on h2")
    assert judge(seen) == []


def test_unknown_is_no_finding(seen: Evidence) -> None:
    seen.exit_status = 4
    assert judge(seen) == []


def test_a_command_that_died_with_its_host_says_nothing(seen: Evidence) -> None:
    seen.exit_status = None
    assert judge(seen) == []


def killed(seen: Evidence, host: str, at_s: float) -> None:
    victim = next(each for each in seen.qemus if each.host == host)
    fault = Fault.parse(f"kill qemu@{seen.side_of(host)} deciding+1")
    seen.hits = (*seen.hits, Hit(fault, at_s, "deciding", "it", (victim,)))
    victim.note_death(at_s + 0.001)
    seen.running = ()


def test_a_copy_that_ran_when_it_was_killed_may_be_lost(seen: Evidence) -> None:
    killed(seen, "h2", RESUME_S + 1)
    assert may_be_lost(seen)


def test_a_destination_killed_before_it_ran_leaves_the_source(seen: Evidence) -> None:
    seen.qemus = [qemu("h1", 1.0, STOP_S), qemu("h2", None)]
    killed(seen, "h2", STOP_S + 0.01)
    assert not may_be_lost(seen)
    assert "lost" in {finding.kind for finding in judge(seen)}


def test_a_source_killed_after_everything_was_loaded_leaves_the_destination(seen: Evidence) -> None:
    seen.qemus = [qemu("h1", 1.0, STOP_S), qemu("h2", None)]
    killed(seen, "h1", STOP_S + 0.01)
    assert not may_be_lost(seen)


def test_a_source_killed_before_that_may_be_lost(seen: Evidence) -> None:
    seen.qemus = [qemu("h1", 1.0, STOP_S), qemu("h2", None)]
    seen.words[DESTINATION] = Word("absent", record("refused"))
    killed(seen, "h1", STOP_S + 0.01)
    assert may_be_lost(seen)


def test_a_saved_state_survives_its_source_but_not_both(seen: Evidence) -> None:
    seen.case = Case.parse("quick: ")
    seen.qemus = [qemu("h1", 1.0, STOP_S), qemu("h2", None)]
    killed(seen, "h1", STOP_S + 0.5)
    assert not may_be_lost(seen)
    killed(seen, "h2", STOP_S + 0.6)
    assert may_be_lost(seen)


def test_a_frozen_copy_is_never_an_excuse(seen: Evidence) -> None:
    fault = Fault.parse("freeze qemu@destination deciding+1 for 9000")
    seen.hits, seen.running = (Hit(fault, RESUME_S + 1, "deciding", "it"),), ()
    assert not may_be_lost(seen)


def held_case(seen: Evidence) -> None:
    seen.qemus = [qemu("h1", 1.0, STOP_S), qemu("h2", None)]
    killed(seen, "h2", RESUME_S)
    seen.exit_status = 4
    seen.words[SOURCE] = Word("moving-out", record("unknown"), facts("CopyCompleted"))
    # An agent that was started again has the facts of its own life, and writes them when nothing happens any more.
    seen.words[DESTINATION] = Word("stopped", {**record(None), "phase": "starting"}, ())


def test_a_copy_killed_as_it_was_told_to_run_is_held_for_an_operator(seen: Evidence) -> None:
    held_case(seen)
    assert held(seen)


@pytest.mark.parametrize(
    "change",
    [
        setting(exit_status=3),
        setting(hits=()),
        setting(qemus=[]),
        words(SOURCE, Word("moving-out", record("failed"))),
        words(DESTINATION, Word("stopped", {**record(None), "phase": "loaded"}, facts("IncomingLoaded"))),
        words(DESTINATION, Word("absent", {**record("refused"), "phase": "ended"}, facts("IncomingLoaded", "Decided"))),
    ],
)
def test_nothing_less_is_held(seen: Evidence, change: Callable[[Evidence], None]) -> None:
    held_case(seen)
    change(seen)
    assert not held(seen)


LET_GO = "the VM belongs to h2 and is stopped: h2 took it; start it on h2: bascule vm start guest"


def let_go_case(seen: Evidence) -> None:
    """Both copies were killed after the decision, and the VM was started again on its destination."""
    seen.qemus = [qemu("h1", 1.0, STOP_S), qemu("h2", RESUME_S)]
    killed(seen, "h2", RESUME_S + 0.1)
    killed(seen, "h1", RESUME_S + 0.2)
    seen.exit_status, seen.excuse, seen.guest = None, may_be_lost(seen), None
    said = {"outcome": "failed", "total_s": 5.1, "blackout_ms": None}
    seen.words[SOURCE] = Word("absent", record("failed", LET_GO), facts("CopyCompleted"), said)
    seen.words[DESTINATION] = Word("stopped", record("completed", ""), facts("Decided"))


@pytest.mark.parametrize("status", [None, 3, 4])
def test_a_source_that_let_go_of_a_vm_whose_copies_are_all_dead_is_acquitted(seen: Evidence, status: int) -> None:
    let_go_case(seen)
    seen.exit_status = status
    assert judge(seen) == []


@pytest.mark.parametrize(
    "change",
    [
        setting(exit_status=0, words={SOURCE: Word("absent", None), DESTINATION: Word("absent", None)}),
        setting(exit_status=1),
        setting(excuse=""),
        words(SOURCE, Word("absent", record("failed", "QEMU on h1 ended by itself"), facts("CopyCompleted"))),
        words(SOURCE, Word("stopped", record("failed", LET_GO), facts("CopyCompleted"))),
        words(DESTINATION, Word("stopped", record("completed"), status="vm guest runs on h2")),
        words(DESTINATION, Word("absent", record("completed", ""), facts("Decided"))),
    ],
)
def test_nothing_less_is_let_go_of(seen: Evidence, change: Callable[[Evidence], None]) -> None:
    let_go_case(seen)
    change(seen)
    assert judge(seen)


def in_phase(state: str, phase: str) -> Word:
    return Word(state, {"phase": phase})


@pytest.mark.parametrize(
    ("source", "waits"),
    [
        (in_phase("moving-out", "unsettled"), True),
        (in_phase("moving-out", "deciding"), True),
        (in_phase("absent", "ended"), True),
        (in_phase("stopped", "unsettled"), False),  # it has no copy either, and lets go
        (in_phase("absent", "letting-go"), False),
        (in_phase("absent", "releasing"), False),
    ],
)
def test_an_operator_is_waited_for_where_he_alone_can_act(source: Word, *, waits: bool) -> None:
    assert waits_for_start({SOURCE: source, DESTINATION: in_phase("stopped", "starting")}) is waits
    assert not waits_for_start({SOURCE: source, DESTINATION: in_phase("stopped", "returning")})
    assert not waits_for_start({SOURCE: source, DESTINATION: in_phase("running", "starting")})


def restarted(seen: Evidence, fault: str, at_s: float) -> None:
    seen.story = [(6.0, "phase checking"), (8.0, "phase releasing"), (11.0, "phase ended")]
    seen.hits = (Hit(Fault.parse(fault), at_s, "releasing", "it"),)
    report(total_s=3.5)(seen)


def test_a_move_may_have_ended_before_an_agent_that_was_started_again_answers(seen: Evidence) -> None:
    restarted(seen, "kill host@source releasing+60 for 100", 8.06)
    assert judge(seen) == []
    report(total_s=0.9)(seen)  # but not before what was seen of it
    assert "untrue" in {finding.kind for finding in judge(seen)}


@pytest.mark.parametrize(
    ("fault", "at_s"),
    [
        ("kill agent@destination releasing+60 for 100", 8.06),
        ("kill qemu@source releasing+60", 8.06),
        ("kill agent@source deciding+1 for 100", 7.0),
    ],
)
def test_what_does_not_hide_its_end_excuses_no_report(seen: Evidence, fault: str, at_s: float) -> None:
    restarted(seen, fault, at_s)
    assert "untrue" in {finding.kind for finding in judge(seen)}
