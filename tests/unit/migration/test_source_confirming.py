"""The source after an operator gave the VM to the destination: what is told for good is what the destination says."""

import pytest
from tests.unit.migration.source_transcript import LIVE, REFUSED, SILENCE, TAKEN, Transcript, confirming

from bascule.migration import commands as do
from bascule.migration import facts, source, source_ending
from bascule.migration.explain import Standing, explain_source
from bascule.migration.model import Decision, Outcome
from bascule.migration.ownership import Ownership
from bascule.migration.source_confirming import released

WORD = "an operator let vm web run on h2"
NOT_YET = facts.Answer(Decision.TAKEN, running=False, reason="its QEMU has ended")
ASK = do.AskTake(last_copy=True)


def test_the_move_is_completed_only_when_the_vm_runs_there() -> None:
    move = confirming()
    assert move.tell((21.0, NOT_YET), (21.3, facts.Tick())) == [ASK]
    (concluded,) = move.tell(TAKEN)
    assert concluded == do.Conclude(Outcome.COMPLETED, f"the VM runs on h2: {WORD}")


@pytest.mark.parametrize("answer", [NOT_YET, SILENCE, facts.StillLoading("h2 is loading")])
def test_after_a_while_it_is_told_as_unknown_and_asked_on(answer: facts.SourceFact) -> None:
    move = confirming()
    (unknown,) = move.tell((20.1 + source_ending.DECISION_PATIENCE_S, answer))
    assert isinstance(unknown, do.Conclude)
    assert unknown.outcome is Outcome.UNKNOWN
    assert "bascule status web" in unknown.reason
    assert move.tell((40.0, facts.Tick()), (40.1, answer), (42.2, facts.Tick())) == [ASK, ASK]  # told once
    assert move.tell((50.0, facts.Tick())) == []
    assert move.tell((102.3, facts.Tick())) == [ASK]  # a question that was lost is asked again
    assert move.tell(TAKEN) == [do.Conclude(*move.ended)]


def test_a_destination_that_has_it_otherwise_is_no_success() -> None:
    for answer in (REFUSED, facts.Answer(Decision.TAKEN, given_back=True)):
        move = confirming()
        move.tell(answer)
        assert move.ended[0] is Outcome.FAILED


def test_recover_asks_at_once_but_not_what_is_being_asked() -> None:
    move = confirming()
    assert move.tell(facts.RecoverAsked()) == []
    assert move.tell((21.0, SILENCE), (21.1, facts.RecoverAsked())) == [ASK]


def test_a_second_word_for_the_same_host_changes_nothing() -> None:
    move = confirming()
    assert move.tell(facts.StoodDown("h2", WORD)) == []


def test_what_keeps_it_open_is_explained() -> None:
    move = confirming()
    move.tell((21.0, NOT_YET))
    said = explain_source(move.state)
    assert said.standing is Standing.UNDER_WAY
    assert said.summary == "vm web belongs to h2, and it is not known whether it runs there"
    assert "its QEMU has ended" in said.known[-1]


# --- after a restart --------------------------------------------------------------------------------------------------


def test_a_vm_at_the_move_s_own_epoch_was_released_on_word_that_it_runs() -> None:
    state, commands = released(LIVE, Ownership("uuid", "h2", LIVE.epoch), 0.0)
    assert commands == (do.Conclude(Outcome.COMPLETED, "the VM runs on h2"),)
    assert isinstance(state, source.Ended)


def test_a_vm_at_a_later_epoch_was_given_away_by_an_operator_and_is_asked_for() -> None:
    state, commands = released(LIVE, Ownership("uuid", "h2", LIVE.epoch + 1), 0.0)
    assert commands == (do.RemoveSavedState(), ASK)
    move = Transcript(LIVE, state)
    move.tell(TAKEN)
    assert move.ended[0] is Outcome.COMPLETED


@pytest.mark.parametrize("row", [None, Ownership("uuid", "h3", 7)])
def test_a_vm_that_is_elsewhere_or_unknown_did_not_arrive(row: Ownership | None) -> None:
    state, _ = released(LIVE, row, 0.0)
    assert isinstance(state, source.Ended)
    assert state.ending.outcome is Outcome.FAILED


def test_two_hosts_that_may_both_run_it_are_explained() -> None:
    withdrawing = source.Withdrawing(LIVE, source.Ending(Outcome.FAILED, "the copy failed"), taken=True)
    assert explain_source(withdrawing).summary == "vm web may run on both hosts"
