"""The source's side once the state was sent, and when the VM is to run here again or QEMU has died."""

from collections.abc import Callable

import pytest
from tests.unit.migration.source_transcript import (
    CANCEL,
    GONE,
    QUICK,
    REFUSED,
    SILENCE,
    TAKEN,
    TO_COPYING,
    TO_DECIDING,
    TO_OFFERING,
    TO_PREPARING,
    TO_SAVING,
    TO_SWITCHING_OVER,
    Told,
    Transcript,
    after,
    cancelling,
    releasing,
    resuming,
    unsettled,
    withdrawing,
)

from bascule.migration import commands as do
from bascule.migration import facts, source, source_ending
from bascule.migration.model import Decision, Outcome

# --- the decision -----------------------------------------------------------------------------------------------------


def test_without_an_answer_the_question_is_repeated_and_the_copy_kept() -> None:
    move = after(*TO_DECIDING)
    for second in range(1, 15):
        assert move.tell((float(second), SILENCE), (second + 0.1, facts.Tick())) == []
        assert move.tell((second + 0.4, facts.Tick()), (second + 0.5, facts.Tick())) == [do.AskTake()]
    assert isinstance(move.state, source.Deciding)
    (unknown,) = move.tell((15.1, SILENCE))
    assert isinstance(unknown, do.Conclude)
    assert unknown.outcome is Outcome.UNKNOWN
    assert unknown.reason == (
        "the VM's state was sent completely to h2, and cannot be reached; the paused copy here is kept and h2 is "
        "asked again until it answers; what would settle it: bascule status web"
    )
    assert move.tell((16.0, facts.Tick())) == []
    assert move.tell((17.2, facts.Tick())) == [do.AskTake()]
    assert move.tell((30.0, facts.Tick())) == []  # this question has no answer yet
    assert move.tell((80.0, facts.Tick())) == [do.AskTake()]  # and may be lost


def test_a_destination_that_has_taken_but_does_not_run_is_waited_for() -> None:
    move = after(*TO_DECIDING)
    taken = facts.Answer(Decision.TAKEN, running=False, reason="QEMU of vm web has ended")
    assert move.tell((1.0, taken), (1.5, facts.Tick())) == [do.AskTake()]
    (unknown,) = move.tell((16.0, taken))
    assert isinstance(unknown, do.Conclude)
    assert "it belongs to h2, which does not run it: QEMU of vm web has ended" in unknown.reason
    assert move.tell((20.0, facts.Tick()), TAKEN) == [do.AskTake(), do.DestroySource()]


@pytest.mark.parametrize("start", [lambda: after(*TO_DECIDING), unsettled])
def test_refused_lets_the_vm_run_here_but_only_when_that_is_durable(start: Callable[[], Transcript]) -> None:
    move = start()
    assert move.tell(REFUSED) == [do.JournalWithdrawal()]
    assert move.tell(facts.WithdrawalDurable()) == [do.RunVcpus(), do.AnnounceHere()]
    move.tell(facts.GuestRunning())
    assert move.ended == (Outcome.FAILED, "h2 refused the VM after the copy: its QEMU died")


def test_a_withdrawal_that_cannot_be_written_is_tried_until_it_can() -> None:
    for move, answers in ((resuming(), ()), (withdrawing(), (REFUSED,))):
        assert move.tell((20.0, facts.JournalFailed("disk full")), (20.5, facts.Tick())) == []
        assert move.tell((21.1, facts.Tick()), (21.2, facts.Tick())) == [do.JournalWithdrawal()]
        assert do.RunVcpus() in move.tell(facts.WithdrawalDurable())
        move.tell(facts.GuestRunning(), *answers)
        assert move.ended[0] is Outcome.FAILED


def test_a_release_that_cannot_be_written_is_tried_until_it_can() -> None:
    move = releasing()
    assert move.tell((20.0, facts.JournalFailed("disk full")), (20.5, facts.Tick())) == []
    assert move.tell((21.1, facts.Tick()), (21.2, facts.Tick())) == [do.DestroySource()]
    move.tell(facts.CopyDestroyed())
    assert move.ended[0] is Outcome.COMPLETED


# --- letting the VM run here again ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [resuming, withdrawing])
def test_a_vm_that_does_not_run_at_once_is_let_run_again(start: Callable[[], Transcript]) -> None:
    move = start()
    move.tell((20.0, facts.WithdrawalDurable()))
    move.tell(*([REFUSED] if start is withdrawing else []))
    for second in range(21, 21 + source_ending.RUN_TRIES - 1):
        assert move.tell((float(second), facts.RunFailed("Migration is not finalized yet"))) == []
        assert move.tell((second + 0.9, facts.Tick())) == []
        assert do.RunVcpus() in move.tell((second + 1.0, facts.Tick()))
    move.tell(facts.GuestRunning())
    assert move.ended[0] is Outcome.FAILED
    assert "could not be let run" not in move.ended[1]


@pytest.mark.parametrize("start", [resuming, withdrawing])
def test_a_vm_that_cannot_be_let_run_is_told_as_unknown_once_and_tried_on(start: Callable[[], Transcript]) -> None:
    move = start()
    move.tell((20.0, facts.WithdrawalDurable()), *([REFUSED] if start is withdrawing else []))
    told, now = [], 21.0
    for _ in range(source_ending.RUN_TRIES + 20):
        told += move.tell((now, facts.RunFailed("no lock")))
        wait_s = source_ending.RUN_AGAIN_LATER_S if told else source_ending.AGAIN_S
        assert move.tell((now + wait_s - 0.1, facts.Tick())) == []
        now += wait_s
        assert do.RunVcpus() in move.tell((now, facts.Tick()))
    (unknown,) = told
    assert isinstance(unknown, do.Conclude)
    assert unknown.outcome is Outcome.UNKNOWN
    assert unknown.reason.endswith(
        "; the VM belongs to h1, but could not be let run there: no lock; it is tried on; "
        "what would settle it: bascule status web"
    )
    move.tell(facts.GuestRunning())
    assert move.ended[0] is Outcome.FAILED
    assert move.asked_for[-1] == do.Conclude(*move.ended)


def test_a_cancelled_vm_that_could_be_let_run_in_the_end_was_just_cancelled() -> None:
    move = cancelling()
    move.tell(facts.CopyEnded("cancelled"), facts.WithdrawalDurable(), REFUSED)
    move.tell(*[facts.RunFailed("no lock")] * source_ending.RUN_TRIES, facts.GuestRunning())
    assert move.ended == (Outcome.CANCELLED, "cancelled by ann")


def test_a_vm_that_runs_is_not_let_run_again_because_an_earlier_try_failed_late() -> None:
    move = withdrawing()
    move.tell(facts.WithdrawalDurable(), facts.GuestRunning())
    assert move.tell(facts.RunFailed("no answer within 5 s"), (99.0, facts.Tick())) == []


def test_withdrawing_waits_for_the_destination_and_for_the_vm() -> None:
    for answer in (REFUSED, SILENCE):
        move = withdrawing()
        move.tell(facts.WithdrawalDurable(), answer)
        assert isinstance(move.state, source.Withdrawing)
        move.tell(facts.GuestRunning())
        assert move.ended[0] is Outcome.FAILED


def test_a_destination_that_took_what_was_not_given_is_told_as_unknown_and_the_operator_s_word_waited_for() -> None:
    move = withdrawing()
    move.tell(facts.WithdrawalDurable())
    reason = "h2 has taken the VM, which was not given to it: it may run on both hosts"
    assert move.tell(TAKEN) == [do.Conclude(Outcome.UNKNOWN, reason)]
    assert move.tell(TAKEN, facts.GuestRunning(), SILENCE, REFUSED) == []
    assert isinstance(move.tell(facts.RecoverAsked())[0], do.AskRefuse)
    assert isinstance(move.state, source.Withdrawing)
    state, commands = source.step(move.state, facts.StoodDown("h2", "an operator let vm web run on h2"), 0.0)
    assert isinstance(state, source.Releasing)
    assert commands == (do.DestroySource(),)


# --- QEMU dies on the source ------------------------------------------------------------------------------------------


def test_qemu_gone_while_checking_ends_the_move() -> None:
    move = Transcript()
    move.tell(GONE)
    assert move.ended == (Outcome.FAILED, "QEMU on the source ended by itself: was ended by SIGKILL")


@pytest.mark.parametrize("told", [TO_PREPARING, TO_OFFERING])
def test_qemu_gone_before_the_copy_leaves_nothing_to_run(told: tuple[Told, ...]) -> None:
    move = after(*told)
    reason = "QEMU on the source ended by itself: was ended by SIGKILL"
    assert move.tell(GONE) == [do.JournalWithdrawal()]
    assert move.tell(facts.WithdrawalDurable()) == [do.AskRefuse(reason), do.RemoveSavedState()]
    move.tell(REFUSED)
    assert move.ended == (Outcome.FAILED, reason)


@pytest.mark.parametrize("told", [TO_COPYING, TO_SWITCHING_OVER, (*TO_COPYING, CANCEL)])
def test_qemu_gone_during_a_live_copy_the_destination_may_have_everything(told: tuple[Told, ...]) -> None:
    move = after(*told)
    assert move.tell(GONE) == [do.AskTake(last_copy=True)]
    move.tell(TAKEN, facts.CopyDestroyed())
    assert move.ended == (Outcome.COMPLETED, "the VM runs on h2")


def test_qemu_gone_and_refused_is_a_dead_vm_whatever_the_user_asked_for() -> None:
    move = after(*TO_DECIDING, CANCEL, GONE)
    assert move.tell(REFUSED) == [do.JournalWithdrawal()]
    assert move.tell(facts.WithdrawalDurable()) == [
        do.RemoveSavedState(),
        do.Conclude(Outcome.FAILED, "cancelled by ann; and QEMU on the source ended by itself: was ended by SIGKILL"),
    ]


def test_qemu_gone_and_no_answer_says_that_no_copy_is_here() -> None:
    move = after(*TO_COPYING, GONE)
    (unknown,) = move.tell((16.0, SILENCE))
    assert unknown == do.Conclude(
        Outcome.UNKNOWN,
        "QEMU on h1 has ended, and cannot be reached; h2 is asked again until it answers; "
        "what would settle it: bascule status web",
    )


def test_qemu_gone_while_saving_the_end_of_the_saving_decides() -> None:
    move = after(*TO_SAVING, GONE, move=QUICK)
    assert move.tell(CANCEL) == []
    assert move.tell(facts.CopyCompleted("/shared/state")) == [do.AskTake("/shared/state", last_copy=True)]
    move.tell(TAKEN, facts.CopyDestroyed())
    assert move.ended[0] is Outcome.COMPLETED
    move = after(*TO_SAVING, GONE, facts.CopyEnded("QEMU ended"), move=QUICK)
    assert move.tell(facts.WithdrawalDurable(), REFUSED)[-1] == do.Conclude(
        Outcome.FAILED, "QEMU on the source ended by itself: was ended by SIGKILL"
    )


def test_qemu_gone_while_a_saving_is_cancelled_leaves_nothing_to_give() -> None:
    move = cancelling(QUICK)
    assert move.tell(GONE) == [do.JournalWithdrawal()]
    assert not any(isinstance(c, do.RunVcpus | do.AskTake) for c in move.tell(facts.WithdrawalDurable()))


@pytest.mark.parametrize("start", [resuming, withdrawing])
@pytest.mark.parametrize("durable_first", [True, False])
def test_qemu_gone_just_before_it_was_to_run_again(start: Callable[[], Transcript], durable_first: bool) -> None:
    move = start()
    move.tell(*([facts.WithdrawalDurable(), GONE] if durable_first else [GONE, facts.WithdrawalDurable()]))
    move.tell(facts.RunFailed("QEMU is gone"), REFUSED)
    assert move.ended[0] is Outcome.FAILED
    assert move.ended[1].endswith("; and QEMU on the source ended by itself: was ended by SIGKILL")
    assert do.Conclude(*move.ended) == move.asked_for[-1]
