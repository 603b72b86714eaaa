"""Every state of a move has its sentences, and those in which somebody may have to act say what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from tests.unit.migration.source_transcript import LIVE, QUICK, TO_COPYING, after

from bascule.migration import destination, source
from bascule.migration.explain import Explanation, Standing, explain_destination, explain_source
from bascule.migration.model import Move, Outcome
from bascule.migration.source_states import Because, Ending

ENDING = Ending(Outcome.FAILED, "the copy failed")
STEERED = after(*TO_COPYING).state
assert isinstance(STEERED, source.Copying)

UNSETTLED = source.Unsettled(LIVE, None, None, source_gone=False, ask_again_s=1.0)

UNDER_WAY_SOURCE: tuple[source.State, ...] = (
    source.Checking(LIVE),
    source.Preparing(LIVE),
    source.Offering(LIVE, "tcp:h2:1"),
    STEERED,
    source.Saving(QUICK),
    source.SwitchingOver(LIVE, STEERED.steering, 1.0),
    source.Cancelling(LIVE, ENDING),
    source.Withdrawing(LIVE, ENDING),
    source.Deciding(LIVE, 0.0),
    source.Releasing(LIVE),
    source.LettingGo(LIVE, ENDING),
    source.Confirming(LIVE, "an operator gave the VM to h2", 0.0),
    source.Resuming(LIVE, ENDING),
)
UNKNOWN_SOURCE: tuple[source.State, ...] = (
    UNSETTLED,
    replace(UNSETTLED, source_gone=True, why="h2 did not answer"),
    source.Cancelling(LIVE, ENDING, try_again_s=1.0),
    source.Withdrawing(LIVE, ENDING, try_again_s=1.0),
    source.Withdrawing(LIVE, ENDING, durable=True, failures=2, try_again_s=1.0),
    source.Withdrawing(LIVE, ENDING, durable=True, taken=True),
    source.Confirming(LIVE, "an operator gave the VM to h2", 0.0, ask_again_s=9.0, why="it hangs", told=True),
    source.Releasing(LIVE, try_again_s=1.0),
    source.Releasing(LIVE, ENDING, try_again_s=1.0),
    source.LettingGo(LIVE, ENDING, try_again_s=1.0),
    source.Resuming(LIVE, ENDING, Because.OPERATOR, try_again_s=1.0),
    source.Resuming(LIVE, ENDING, durable=True, failures=1, try_again_s=1.0),
)
UNDER_WAY_DESTINATION: tuple[destination.State, ...] = (
    destination.Preparing(LIVE),
    destination.Receiving(LIVE, "tcp:h2:1", 0.0),
    destination.Receiving(LIVE, "tcp:h2:1", 0.0, word_s=1.0),
    destination.Receiving(LIVE, "tcp:h2:1", 0.0, word_s=1.0, last_copy=True),
    destination.Taking(LIVE),
    destination.Starting(LIVE),
    destination.Returning(LIVE, "no lock"),
    destination.Refusing(LIVE, "cancelled by ann"),
    destination.Discarding(LIVE, "cancelled by ann"),
)
UNKNOWN_DESTINATION: tuple[destination.State, ...] = (
    destination.Loaded(LIVE, 0.0),
    destination.Loaded(QUICK, 0.0),
    destination.Taking(LIVE, try_again_s=1.0),
    destination.Starting(LIVE, "no lock", failures=1, try_again_s=1.0),
    destination.Returning(LIVE, "no lock", try_again_s=1.0),
    destination.Refusing(LIVE, "cancelled by ann", try_again_s=1.0),
    destination.Discarding(LIVE, "cancelled by ann", try_again_s=1.0),
)
SETTLED: tuple[source.State | destination.State, ...] = (
    source.Ended(LIVE, Ending(Outcome.COMPLETED, "the VM runs on h2")),
    destination.Ran(LIVE),
    destination.Discarded(LIVE, "cancelled by ann"),
)
UNDER_WAY = UNDER_WAY_SOURCE + UNDER_WAY_DESTINATION
UNKNOWN = UNKNOWN_SOURCE + UNKNOWN_DESTINATION


def explain(state: source.State | destination.State) -> Explanation:
    if isinstance(state, get_args(destination.State)):
        return explain_destination(state)
    return explain_source(state)


def name(state: source.State | destination.State) -> str:
    return f"{type(state).__module__.rpartition('.')[2]}.{type(state).__name__}"


def test_every_state_is_tried_here() -> None:
    tried = {type(state) for state in UNDER_WAY + UNKNOWN + SETTLED}
    assert tried == {*get_args(source.State), *get_args(destination.State)}


@pytest.mark.parametrize("state", UNDER_WAY, ids=name)
def test_what_goes_on_by_itself_asks_nothing_of_anybody(state: source.State | destination.State) -> None:
    found = explain(state)
    assert found.standing is Standing.UNDER_WAY
    assert found.run_here_against is None
    assert not any("--run-here" in choice.action for choice in found.choices)


@pytest.mark.parametrize("state", UNKNOWN, ids=name)
def test_what_is_unknown_says_what_is_known_what_settles_it_and_a_safe_thing_to_do(
    state: source.State | destination.State,
) -> None:
    found = explain(state)
    assert found.standing is Standing.UNKNOWN
    assert found.known
    assert found.settles
    assert found.choices[0].risk.startswith("none")
    assert any(choice.action == "bascule recover web" for choice in found.choices)


@pytest.mark.parametrize("state", SETTLED, ids=name)
def test_what_is_settled_leaves_nothing_to_choose(state: source.State | destination.State) -> None:
    found = explain(state)
    assert found.standing is Standing.SETTLED
    assert not found.choices


@pytest.mark.parametrize("state", UNDER_WAY + UNKNOWN + SETTLED, ids=name)
def test_sentences_are_whole(state: source.State | destination.State) -> None:
    found = explain(state)
    if not isinstance(state, source.Ended | source.Releasing | source.LettingGo):
        assert "web" in found.summary
    assert not found.summary.endswith(".")
    for sentence in (*found.known, *found.settles):
        assert sentence.endswith("."), sentence
        assert ".." not in sentence
    for choice in found.choices:
        assert choice.risk
        assert not choice.risk.endswith(".")


def test_unknown_on_the_source() -> None:
    found = explain_source(replace(UNSETTLED, why="the agent at 10.0.0.2:7440 did not answer within 10 s"))

    assert found.summary == "it is not known whether vm web runs on h2"
    assert "The copy on h1 is complete and stands paused. It is kept." in found.known
    assert "The last try: the agent at 10.0.0.2:7440 did not answer within 10 s." in found.known
    assert found.run_here_against == "h2"
    risk = found.choices[-1].risk
    assert found.choices[-1].action == "bascule recover web --run-here"
    assert "only if h2 is down for certain" in risk
    assert "two copies write to one disk" in risk
    assert "it goes on from the moment at which it was stopped" in risk


def test_unknown_on_a_source_whose_copy_is_dead_does_not_promise_to_go_on() -> None:
    found = explain_source(replace(UNSETTLED, source_gone=True))

    assert "QEMU on h1 has ended: there is no copy on h1 to go on with." in found.known
    assert "to be started from its disks; what was only in its memory is lost" in found.choices[-1].risk


@pytest.mark.parametrize(("move", "how"), [(LIVE, "received"), (QUICK, "loaded from storage")])
def test_unknown_on_the_destination(move: Move, how: str) -> None:
    found = explain_destination(destination.Loaded(move, 0.0))

    assert found.summary == "a complete copy of vm web waits on h2 for the word of h1"
    assert f"The VM's state was {how} completely and stands paused on h2. It is kept." in found.known
    assert found.run_here_against == "h1"
    assert "only if h1 is down for certain" in found.choices[-1].risk


def test_taken_and_its_qemu_dead() -> None:
    found = explain_destination(destination.Starting(LIVE, "its QEMU ended", failures=1, try_again_s=9.0))

    assert found.summary == "vm web belongs to h2 and does not run"
    assert found.run_here_against is None
    start = next(choice for choice in found.choices if choice.action.startswith("bascule vm start web"))
    assert "what was only in its memory is lost" in start.risk


def test_taken_ended_and_left_to_an_operator() -> None:
    found = explain_destination(destination.Starting(LIVE, "its QEMU ended", failures=1, ended=True, try_again_s=9.0))

    assert found.summary == "vm web belongs to h2 and is stopped"
    assert "so it is not given back to h1." in found.known[0]
    (start,) = found.choices
    assert start.action == "bascule vm start web"
    assert "what was only in its memory is lost" in start.risk


def test_a_move_being_undone_is_not_told_as_one_under_way() -> None:
    found = explain_source(source.Withdrawing(LIVE, ENDING))

    assert found.summary == "vm web stays on h1"
    assert "the copy failed." in found.known


def test_a_journal_that_cannot_be_written_is_named() -> None:
    found = explain_source(source.Resuming(LIVE, ENDING, try_again_s=1.0))

    assert found.summary.endswith("and the journal of h1 cannot be written")
    assert "make room" in found.choices[0].action
