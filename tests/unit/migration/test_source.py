"""The source's side of a move, as transcripts: what is told, what state follows, what is asked for."""

from dataclasses import replace

import pytest
from tests.unit.migration.source_transcript import (
    CANCEL,
    GONE,
    LIVE,
    MIB,
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
    progress,
    releasing,
    unsettled,
)

from bascule.errors import Finding
from bascule.migration import commands as do
from bascule.migration import facts, source
from bascule.migration.convergence import LOW_LIMIT_MS
from bascule.migration.model import Goals, Move, Outcome

# --- moves that go well -----------------------------------------------------------------------------------------------


def test_a_live_move_step_by_step() -> None:
    move = Transcript()
    assert move.asked_for == [do.CheckBothSides()]
    assert move.tell(facts.Checked()) == [do.PrepareDestination()]
    assert move.tell(facts.DestinationReady("tcp:h2:49152")) == [do.JournalOffer()]
    assert move.tell(facts.OfferDurable()) == [do.StartCopy("tcp:h2:49152")]
    assert move.tell(facts.SourceStopped()) == [do.TellStopped()]
    assert move.tell(facts.CopyCompleted()) == [do.AskTake()]
    assert move.tell(TAKEN) == [do.DestroySource()]
    assert move.tell(facts.CopyDestroyed()) == [
        do.RemoveSavedState(),
        do.Conclude(Outcome.COMPLETED, "the VM runs on h2"),
    ]
    assert move.ended == (Outcome.COMPLETED, "the VM runs on h2")


def test_a_quick_migration_step_by_step() -> None:
    move = Transcript(QUICK)
    assert move.tell(facts.Checked(), facts.DestinationReady("")) == [do.PrepareDestination(), do.JournalOffer()]
    assert move.tell(facts.OfferDurable()) == [do.SaveState()]
    assert move.tell(facts.SourceStopped()) == []  # the saving itself stopped it, and nothing is to be drawn away yet
    assert move.tell(facts.CopyCompleted("/shared/state")) == [do.AskTake("/shared/state")]
    assert move.tell(TAKEN, facts.CopyDestroyed()) == [
        do.DestroySource(),
        do.RemoveSavedState(),
        do.Conclude(Outcome.COMPLETED, "the VM runs on h2"),
    ]


def test_the_copy_starts_only_with_the_offer_durable() -> None:
    move = after(*TO_OFFERING)
    move.tell(
        facts.Tick(),
        facts.SourceStopped(),
        progress(1, 1),
        facts.DestinationReady("tcp:h2:49152"),
        (99.0, facts.Tick()),
    )
    assert not any(isinstance(command, do.StartCopy) for command in move.asked_for)


def test_qemu_may_complete_without_a_stop_being_seen() -> None:
    move = after(*TO_COPYING)
    assert move.tell(facts.CopyCompleted()) == [do.AskTake()]
    assert isinstance(move.state, source.Deciding)


def test_what_could_not_be_removed_here_is_part_of_the_outcome() -> None:
    move = releasing()
    move.tell(facts.CopyDestroyed(leftover="QEMU (pid 7) did not die"))
    assert move.ended == (
        Outcome.COMPLETED,
        "the VM runs on h2; what is left of it here could not be removed: QEMU (pid 7) did not die",
    )


# --- the promise and the deadline -------------------------------------------------------------------------------------


def test_the_limit_is_raised_at_the_end_of_a_round_alone_and_lowered_again() -> None:
    move = after(*TO_COPYING)
    assert move.tell((0.1, progress(1024, 0, at_round_end=False))) == []
    assert move.tell((0.6, progress(10, 500, at_round_end=False))) == []  # little is left, but no round has ended
    assert move.tell((1.1, progress(300, 1000))) == [do.SetDowntimeLimit(LOW_LIMIT_MS)]  # 300 ms do not fit 100
    assert move.tell((1.4, progress(50, 1300))) == [
        do.SetDowntimeLimit(LOW_LIMIT_MS)
    ]  # one more round would shorten it
    (raised,) = move.tell((1.45, progress(49, 1350)))
    assert isinstance(raised, do.SetDowntimeLimit)
    assert LOW_LIMIT_MS < raised.limit_ms <= 100
    assert isinstance(move.state, source.Copying)
    assert move.state.limit_ms == raised.limit_ms
    assert move.tell((1.6, progress(400, 1400))) == [do.SetDowntimeLimit(LOW_LIMIT_MS)]  # the guest went wild again


def test_a_round_that_ends_with_the_stop_is_still_noted() -> None:
    move = after(*TO_COPYING, (0.1, progress(1024, 0, at_round_end=False)))
    move.tell((1.0, facts.SourceStopped()), (1.1, progress(30, 1000)))
    assert isinstance(move.state, source.SwitchingOver)
    assert [ended.remaining_bytes for ended in move.state.steering.rounds] == [30 * MIB]


def test_the_deadline_ends_the_copy_and_says_what_was_dirtied_against_what_was_sent() -> None:
    goals = Goals(max_blackout_ms=100, deadline_s=30)
    move = after(*TO_COPYING, (0.1, progress(1024, 0, at_round_end=False)), move=replace(LIVE, goals=goals))
    move.tell((10.0, progress(800, 1000)), (29.9, facts.Tick()))
    assert isinstance(move.state, source.Copying)
    assert move.tell((30.1, facts.Tick())) == [do.CancelCopy()]
    assert isinstance(move.state, source.Cancelling)
    outcome, reason = move.state.ending.outcome, move.state.ending.reason
    assert outcome is Outcome.FAILED
    assert reason.startswith("the copy could not be finished within 30 s: the guest dirtied 800.0 MiB during a round")
    assert "sent 1000.0 MiB" in reason
    assert "100 ms were promised" in reason


def test_a_copy_that_completes_just_before_it_is_cancelled_is_undone_by_the_register_alone() -> None:
    move = cancelling()
    assert move.tell(facts.CopyCompleted()) == [do.AskRefuse("cancelled by ann")]
    assert isinstance(move.state, source.Deciding)
    assert move.tell(REFUSED) == [do.JournalWithdrawal()]
    move.tell(facts.WithdrawalDurable(), facts.GuestRunning())
    assert move.ended == (Outcome.CANCELLED, "cancelled by ann")


@pytest.mark.parametrize(("max_blackout_ms", "patience_s"), [(50, 5.0), (2000, 20.0)])
def test_a_vm_does_not_stand_still_for_ever(max_blackout_ms: float, patience_s: float) -> None:
    move = after(*TO_COPYING, move=replace(LIVE, goals=Goals(max_blackout_ms, 600)))
    move.tell((100.0, facts.SourceStopped()))
    assert move.tell((100.0 + patience_s, facts.Tick())) == []
    assert move.tell((100.1 + patience_s, facts.Tick())) == [do.CancelCopy()]
    assert move.tell(facts.CopyEnded("cancelled")) == [do.AnnounceHere(), do.JournalWithdrawal()]


# --- refusals and failures before the copy is complete ----------------------------------------------------------------


def test_findings_end_the_move_before_anything_changed() -> None:
    move = Transcript()
    findings = (Finding("host h2", "no memory", "free some"), Finding("bridge br0", "is not there"))
    reason = "host h2: no memory (free some); bridge br0: is not there"
    assert move.tell(facts.Checked(findings)) == [do.Conclude(Outcome.REFUSED, reason)]
    assert move.ended == (Outcome.REFUSED, reason)


def test_a_destination_that_cannot_be_prepared_may_have_begun_all_the_same() -> None:
    move = after(*TO_PREPARING)
    assert move.tell(facts.DestinationFailed("no answer within 60 s")) == [do.JournalWithdrawal()]
    reason = "the destination could not be prepared: no answer within 60 s"
    assert move.tell(facts.WithdrawalDurable()) == [do.RunVcpus(), do.AskRefuse(reason), do.RemoveSavedState()]
    move.tell(facts.GuestRunning(), REFUSED)
    assert move.ended == (Outcome.FAILED, reason)


def test_an_offer_that_cannot_be_written_ends_the_move_with_the_vm_running() -> None:
    move = after(*TO_OFFERING)
    assert move.tell(facts.JournalFailed("disk full")) == [do.JournalWithdrawal()]  # it may be durable all the same
    move.tell(facts.WithdrawalDurable(), facts.GuestRunning(), REFUSED)
    assert move.ended == (Outcome.FAILED, "the offer could not be written: disk full")


def test_a_copy_that_fails_leaves_the_vm_running() -> None:
    move = after(*TO_COPYING)
    assert move.tell(facts.CopyEnded("connection reset")) == [do.JournalWithdrawal()]
    move.tell(facts.WithdrawalDurable(), SILENCE, facts.GuestRunning())
    assert move.ended == (Outcome.FAILED, "the copy failed: connection reset")


def test_a_copy_that_fails_in_the_switchover_calls_the_frames_back() -> None:
    move = after(*TO_SWITCHING_OVER)
    reason = "the copy failed during the switchover: connection reset"
    assert move.tell(facts.CopyEnded("connection reset")) == [do.AnnounceHere(), do.JournalWithdrawal()]
    assert move.tell(facts.WithdrawalDurable()) == [do.RunVcpus(), do.AskRefuse(reason), do.RemoveSavedState()]
    assert move.tell(facts.GuestRunning()) == []
    # once more at the end: the notice of the stop may have reached the destination late
    assert move.tell(REFUSED) == [do.AnnounceHere(), do.Conclude(Outcome.FAILED, reason)]


def test_a_state_that_cannot_be_saved_is_removed_and_the_vm_runs_on() -> None:
    move = after(*TO_SAVING, move=QUICK)
    assert move.tell(facts.CopyEnded("no space left")) == [do.JournalWithdrawal()]
    assert do.RemoveSavedState() in move.tell(facts.WithdrawalDurable())
    move.tell(facts.GuestRunning(), REFUSED)
    assert move.ended == (Outcome.FAILED, "saving the state failed: no space left")


# --- cancel, in every phase -------------------------------------------------------------------------------------------


def test_cancel_while_checking_ends_at_once() -> None:
    move = Transcript()
    assert move.tell(CANCEL) == [do.Conclude(Outcome.CANCELLED, "cancelled by ann")]


@pytest.mark.parametrize("told", [TO_PREPARING, TO_OFFERING])
def test_cancel_before_the_copy_withdraws(told: tuple[Told, ...]) -> None:
    move = after(*told)
    assert move.tell(CANCEL) == [do.JournalWithdrawal()]
    move.tell(facts.DestinationReady("tcp:h2:49152"), facts.OfferDurable())  # too late, and without effect
    assert move.tell(facts.WithdrawalDurable()) == [
        do.RunVcpus(),
        do.AskRefuse("cancelled by ann"),
        do.RemoveSavedState(),
    ]
    move.tell(REFUSED, facts.GuestRunning())
    assert move.ended == (Outcome.CANCELLED, "cancelled by ann")
    assert not any(isinstance(command, do.StartCopy | do.AskTake) for command in move.asked_for)


@pytest.mark.parametrize(("told", "mode"), [(TO_COPYING, LIVE), (TO_SWITCHING_OVER, LIVE), (TO_SAVING, QUICK)])
def test_cancel_during_the_copy_ends_it_first(told: tuple[Told, ...], mode: Move) -> None:
    move = after(*told, move=mode)
    assert move.tell(CANCEL, CANCEL) == [do.CancelCopy()]
    assert move.tell(facts.CopyEnded("cancelled")) == [do.AnnounceHere(), do.JournalWithdrawal()]
    assert do.RunVcpus() in move.tell(facts.WithdrawalDurable())
    move.tell(facts.GuestRunning(), REFUSED)
    assert move.ended == (Outcome.CANCELLED, "cancelled by ann")


def test_a_cancel_that_fails_is_tried_again() -> None:
    move = cancelling()
    assert move.tell((1.0, facts.CancelFailed("no answer within 5 s")), (1.5, facts.Tick())) == []
    assert move.tell((2.1, facts.Tick()), (2.2, facts.Tick())) == [do.CancelCopy()]
    move.tell(facts.CopyEnded("cancelled"))
    assert isinstance(move.state, source.Withdrawing)


def test_cancel_while_deciding_asks_the_register() -> None:
    move = after(*TO_DECIDING)
    assert move.tell(CANCEL, CANCEL) == [do.AskRefuse("cancelled by ann")]
    assert move.tell((0.1, SILENCE), (0.5, facts.Tick())) == [do.AskRefuse("cancelled by ann")]  # no longer `take`
    assert move.tell(REFUSED, facts.WithdrawalDurable()) == [do.JournalWithdrawal(), do.RunVcpus(), do.AnnounceHere()]
    assert move.tell(facts.GuestRunning()) == [
        do.RemoveSavedState(),
        do.Conclude(Outcome.CANCELLED, "cancelled by ann"),
    ]


def test_a_cancel_that_comes_after_the_decision_is_too_late() -> None:
    move = after(*TO_DECIDING, CANCEL)
    assert move.tell(TAKEN) == [do.DestroySource()]
    assert move.tell(CANCEL) == []
    move.tell(facts.CopyDestroyed())
    assert move.ended == (Outcome.COMPLETED, "the VM runs on h2")


def test_cancel_while_unsettled_asks_for_refused_from_then_on() -> None:
    move = unsettled()
    assert move.tell(CANCEL) == [do.AskRefuse("cancelled by ann")]
    assert move.tell((17.0, SILENCE), (30.0, facts.Tick())) == [do.AskRefuse("cancelled by ann")]
    move.tell(REFUSED, facts.WithdrawalDurable(), facts.GuestRunning())
    assert move.ended == (Outcome.CANCELLED, "cancelled by ann")


@pytest.mark.parametrize("told", [(*TO_DECIDING, GONE), (*TO_COPYING, GONE), (*TO_DECIDING, (16.0, SILENCE), GONE)])
def test_with_qemu_gone_a_cancel_does_not_give_up_what_may_be_the_last_copy(told: tuple[Told, ...]) -> None:
    move = after(*told)
    assert move.tell(CANCEL) == []
    asked_for = move.tell((40.0, SILENCE), (100.0, facts.Tick()), (101.0, SILENCE), (200.0, facts.Tick()))
    assert [c for c in asked_for if not isinstance(c, do.Conclude)] == [do.AskTake(last_copy=True)] * 2
