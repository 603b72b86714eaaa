"""The source where the VM comes back though it was taken, where an operator decides, and where one is waited for."""

from collections.abc import Callable

import pytest
from tests.unit.migration.source_transcript import (
    CANCEL,
    ENDED_THERE,
    GONE,
    LIVE,
    QUICK,
    REFUSED,
    SILENCE,
    TAKEN,
    TO_COPYING,
    TO_DECIDING,
    TO_OFFERING,
    TO_PREPARING,
    TO_SAVED,
    TO_SAVING,
    TO_SWITCHING_OVER,
    Transcript,
    after,
    cancelling,
    letting_go,
    releasing,
    resuming,
    unsettled,
    withdrawing,
)

from bascule.migration import commands as do
from bascule.migration import facts, source, source_ending
from bascule.migration.model import Decision, Outcome

GIVEN_BACK = facts.Answer(Decision.TAKEN, given_back=True, reason="its QEMU ended by SIGKILL")
OPERATOR = facts.OperatorRunsHere("ann")
TOLD_TO_STAND_DOWN = facts.StoodDown("h2", "an operator let vm web run on h2")
LOADING = facts.StillLoading("h2 is loading the VM's state")


def deciding() -> Transcript:
    return after(*TO_DECIDING)


# --- given back unrun -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [deciding, unsettled])
def test_a_vm_that_was_given_back_runs_here_but_only_when_that_is_durable(start: Callable[[], Transcript]) -> None:
    move = start()
    assert move.tell(GIVEN_BACK) == [do.JournalReturn()]
    assert move.tell(facts.WithdrawalDurable(), facts.OverrideDurable(), facts.Tick()) == []  # another write's answers
    assert move.tell(facts.ReturnDurable()) == [do.RunVcpus(), do.AnnounceHere()]
    assert move.tell(facts.GuestRunning())[0] == do.RemoveSavedState()
    assert move.ended == (Outcome.FAILED, "h2 took the VM and gave it back unrun: its QEMU ended by SIGKILL")


def test_a_return_that_cannot_be_written_is_written_later_and_nothing_runs_before() -> None:
    move = deciding()
    move.tell(GIVEN_BACK)
    for second in range(20, 30):
        assert move.tell((float(second), facts.JournalFailed("disk full")), (second + 0.9, facts.Tick())) == []
        assert move.tell((second + 1.0, facts.Tick()), (second + 1.1, facts.Tick())) == [do.JournalReturn()]
    assert do.RunVcpus() in move.tell(facts.ReturnDurable())


def test_a_cancelled_vm_that_was_taken_and_given_back_is_cancelled() -> None:
    move = deciding()
    move.tell(CANCEL, GIVEN_BACK, facts.ReturnDurable(), facts.GuestRunning())
    assert move.ended == (Outcome.CANCELLED, "cancelled by ann")


def test_a_vm_given_back_to_a_dead_qemu_is_the_end_of_it() -> None:
    move = deciding()
    assert move.tell(GONE, GIVEN_BACK) == [do.JournalReturn()]
    assert not any(isinstance(command, do.RunVcpus) for command in move.tell(facts.ReturnDurable()))
    assert move.ended == (Outcome.FAILED, "QEMU on the source ended by itself: was ended by SIGKILL")


def test_a_destination_that_is_about_to_give_the_vm_back_is_waited_for() -> None:
    move = deciding()
    about_to = facts.Answer(Decision.TAKEN, reason="it is going to give the VM back: its QEMU ended")
    assert move.tell((1.0, about_to), (1.5, facts.Tick())) == [do.AskTake()]
    assert isinstance(move.state, source.Deciding)


# --- taken, ended there, and nothing is left here ---------------------------------------------------------------------

LET_GO = (
    "the VM belongs to h2 and is stopped: h2 took it, and its QEMU there has ended, as the one on h1 had; what was "
    "only in its memory is lost; start it on h2: bascule vm start web"
)


@pytest.mark.parametrize("start", [deciding, unsettled])
def test_a_source_without_a_copy_lets_go_of_a_vm_that_has_ended_and_never_comes_back(
    start: Callable[[], Transcript],
) -> None:
    move = start()
    assert move.tell(GONE, ENDED_THERE) == [do.LetGo(Outcome.FAILED, LET_GO)]
    assert not isinstance(move.state, source.Ended), "it is over when that is durable"
    assert move.tell(facts.CopyDestroyed()) == [do.Conclude(Outcome.FAILED, LET_GO)]
    assert move.ended == (Outcome.FAILED, LET_GO)


@pytest.mark.parametrize("start", [deciding, unsettled])
def test_a_source_that_has_its_copy_keeps_it(start: Callable[[], Transcript]) -> None:
    move = start()
    for second in range(100, 200, 10):
        assert do.LetGo(Outcome.FAILED, LET_GO) not in move.tell((float(second), ENDED_THERE), facts.Tick())
    assert isinstance(move.state, source.Unsettled)
    assert move.tell(GONE, ENDED_THERE) == [do.LetGo(Outcome.FAILED, LET_GO)]  # once it has lost it


@pytest.mark.parametrize("start", [deciding, unsettled])
def test_what_may_still_be_given_back_is_never_let_go_of(start: Callable[[], Transcript]) -> None:
    """It would belong to nobody; an agent of an older version does not say whether it may."""
    move = start()
    move.tell(GONE)
    for second in range(100, 200, 10):
        told = move.tell((float(second), facts.Answer(Decision.TAKEN, reason="its QEMU has ended")), facts.Tick())
        assert not any(isinstance(command, do.LetGo) for command in told)
    assert move.tell(GIVEN_BACK) == [do.JournalReturn()]


def test_what_is_let_go_of_is_journalled_until_that_succeeds() -> None:
    move = letting_go()
    for second in range(20, 30):
        assert move.tell((float(second), facts.JournalFailed("disk full")), (second + 0.9, facts.Tick())) == []
        assert move.tell((second + 1.0, facts.Tick()), (second + 1.1, facts.Tick())) == [
            do.LetGo(Outcome.FAILED, LET_GO)
        ]
    move.tell(facts.CopyDestroyed("a tap"))
    assert move.ended == (Outcome.FAILED, f"{LET_GO}; what is left of it here could not be removed: a tap")


# --- an operator decides ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [deciding, unsettled])
def test_an_operator_lets_the_vm_run_here_but_only_when_that_is_durable(start: Callable[[], Transcript]) -> None:
    move = start()
    assert move.tell(OPERATOR) == [do.JournalOverride()]
    assert move.tell(facts.WithdrawalDurable(), facts.ReturnDurable(), (99.0, facts.Tick())) == []
    assert move.tell(facts.OverrideDurable()) == [do.RunVcpus(), do.AnnounceHere()]
    move.tell(facts.GuestRunning())
    assert move.ended == (Outcome.FAILED, "ann confirmed that h2 is down, and let the VM run on h1")


def test_an_override_that_cannot_be_written_is_written_later() -> None:
    move = deciding()
    move.tell(OPERATOR)
    assert move.tell((20.0, facts.JournalFailed("disk full")), (20.9, facts.Tick())) == []
    assert move.tell((21.0, facts.Tick())) == [do.JournalOverride()]


def test_an_answer_that_comes_after_the_operator_s_word_changes_nothing_here() -> None:
    """The journal holds a later epoch, and the other host is told of it."""
    for late in (TAKEN, REFUSED, GIVEN_BACK, SILENCE):
        move = deciding()
        move.tell(OPERATOR)
        assert move.tell(late) == []
        assert do.RunVcpus() in move.tell(facts.OverrideDurable(), late)


def test_with_qemu_gone_an_operator_s_word_makes_the_vm_this_host_s_to_start_anew() -> None:
    move = unsettled()
    move.tell(GONE)
    assert move.tell(OPERATOR) == [do.JournalOverride()]
    assert move.tell(facts.OverrideDurable()) == [do.RemoveSavedState(), do.Conclude(*move.ended)]


@pytest.mark.parametrize(
    "move",
    [
        Transcript(),
        after(*TO_PREPARING),
        after(*TO_OFFERING),
        after(*TO_COPYING),
        after(*TO_SAVING, move=QUICK),
        after(*TO_SWITCHING_OVER),
        cancelling(),
        withdrawing(),
        resuming(),
        releasing(),
    ],
    ids=lambda t: type(t.state).__name__,
)
def test_an_operator_is_asked_where_the_decision_is_open_and_nowhere_else(move: Transcript) -> None:
    assert source.step(move.state, OPERATOR, 0.0) == (move.state, ())


# --- an operator has decided for the other host -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "move",
    [
        Transcript(),
        after(*TO_PREPARING),
        after(*TO_OFFERING),
        after(*TO_COPYING),
        after(*TO_SAVING, move=QUICK),
        after(*TO_SWITCHING_OVER),
        cancelling(),
        withdrawing(),
        deciding(),
        unsettled(),
        resuming(),
    ],
    ids=lambda t: type(t.state).__name__,
)
def test_the_loser_s_copy_goes_wherever_the_move_stands(move: Transcript) -> None:
    state, commands = source.step(move.state, TOLD_TO_STAND_DOWN, 0.0)
    assert commands == (do.DestroySource(),)
    told = Transcript(state.move, state)
    assert told.tell(facts.CopyDestroyed()) == [do.RemoveSavedState(), do.AskTake(last_copy=True)]
    told.tell(TAKEN)
    assert told.ended == (Outcome.COMPLETED, "the VM runs on h2: an operator let vm web run on h2")


def test_a_vm_that_a_third_host_has_did_not_arrive() -> None:
    move = unsettled()
    state, _ = source.step(move.state, facts.StoodDown("h3", "an operator let vm web run on h3"), 0.0)
    state, _ = source.step(state, facts.CopyDestroyed(), 0.0)
    assert isinstance(state, source.Ended)
    assert state.ending.outcome is Outcome.FAILED


def test_who_is_releasing_already_hears_nothing_new() -> None:
    for move in (releasing(), after(*TO_DECIDING, TAKEN, facts.CopyDestroyed())):
        assert source.step(move.state, TOLD_TO_STAND_DOWN, 0.0) == (move.state, ())


# --- waiting, and being asked to try now ------------------------------------------------------------------------------


def test_a_destination_that_is_loading_is_waited_for_as_long_as_it_says_so() -> None:
    move = after(*TO_SAVED, move=QUICK)
    for second in range(1, 600):
        assert move.tell((float(second), LOADING)) == []
        assert move.tell((second + source_ending.ASK_AGAIN_S, facts.Tick())) == [do.AskTake("/shared/state")]
    assert isinstance(move.state, source.Deciding)
    assert move.tell((610.0, SILENCE)) == []  # patience begins anew when it falls silent
    (unknown,) = move.tell((626.0, SILENCE))
    assert isinstance(unknown, do.Conclude)
    assert unknown.outcome is Outcome.UNKNOWN


def test_what_was_told_as_unknown_is_not_taken_back_because_it_loads() -> None:
    move = unsettled()
    assert move.tell((17.0, LOADING)) == []
    assert isinstance(move.state, source.Unsettled)
    assert move.state.why == "h2 is loading the VM's state"
    assert move.tell((19.0, facts.Tick())) == [do.AskTake()]


def test_recover_asks_at_once_but_not_what_is_being_asked() -> None:
    move = unsettled()
    assert move.tell((16.1, facts.Tick())) == []
    assert move.tell((16.1, facts.RecoverAsked())) == [do.AskTake()]
    assert move.tell((16.2, facts.RecoverAsked()), (16.3, facts.RecoverAsked())) == [do.AskTake()] * 2
    move = deciding()
    assert move.tell(facts.RecoverAsked()) == []  # the first question has no answer yet
    assert move.tell((1.0, SILENCE), (1.1, facts.RecoverAsked())) == [do.AskTake()]


@pytest.mark.parametrize("start", [resuming, withdrawing, releasing, letting_go])
def test_recover_tries_at_once_what_waits_for_its_next_try(start: Callable[[], Transcript]) -> None:
    move = start()
    assert move.tell(facts.RecoverAsked()) == []  # it is being tried
    (again,) = move.tell((20.0, facts.JournalFailed("disk full")), (20.1, facts.RecoverAsked()))
    assert again in move.asked_for[:-1]
    assert move.tell((20.2, facts.RecoverAsked()), (25.0, facts.Tick())) == []


def test_recover_ends_a_copy_at_once_that_could_not_be_ended() -> None:
    move = cancelling()
    assert move.tell((1.0, facts.CancelFailed("no answer")), (1.1, facts.RecoverAsked())) == [do.CancelCopy()]


@pytest.mark.parametrize(
    "move",
    [Transcript(), after(*TO_PREPARING), after(*TO_OFFERING), after(*TO_COPYING), after(*TO_SAVING, move=QUICK)],
    ids=lambda t: type(t.state).__name__,
)
def test_recover_does_nothing_to_a_move_that_goes_well(move: Transcript) -> None:
    assert source.step(move.state, facts.RecoverAsked(), 0.0) == (move.state, ())


def test_the_last_copy_is_told_as_such() -> None:
    move = after(*TO_COPYING, GONE, move=LIVE)
    assert move.asked_for[-1] == do.AskTake(last_copy=True)
    move = deciding()
    move.tell(GONE)
    assert move.tell((1.0, SILENCE), (2.0, facts.Tick())) == [do.AskTake(last_copy=True)]
