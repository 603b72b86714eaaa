"""Facts that come late or twice change nothing on the source."""

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
    Told,
    Transcript,
    after,
    cancelling,
    confirming,
    letting_go,
    progress,
    releasing,
    resuming,
    unsettled,
    withdrawing,
)

from bascule.errors import Finding
from bascule.migration import facts, source
from bascule.migration.model import Decision, Move

EVERY_FACT: tuple[facts.SourceFact, ...] = (
    facts.Tick(),
    CANCEL,
    facts.RecoverAsked(),
    facts.OperatorRunsHere(),
    facts.StoodDown("h2", "late"),
    facts.Checked(),
    facts.Checked((Finding("x", "y"),)),
    facts.DestinationReady("tcp:late:1"),
    facts.DestinationFailed("late"),
    facts.OfferDurable(),
    facts.WithdrawalDurable(),
    facts.ReturnDurable(),
    facts.OverrideDurable(),
    progress(1, 1),
    facts.SourceStopped(),
    facts.CopyCompleted("late"),
    facts.CopyEnded("late"),
    facts.CancelFailed("late"),
    GONE,
    TAKEN,
    facts.Answer(Decision.TAKEN, running=False),
    facts.Answer(Decision.TAKEN, given_back=True),
    ENDED_THERE,
    REFUSED,
    facts.StillLoading("late"),
    SILENCE,
    facts.CopyDestroyed(),
    facts.GuestRunning(),
    facts.RunFailed("late"),
    facts.JournalFailed("late"),
)
ANSWERS = (facts.Answer, facts.NoAnswer, facts.StillLoading)
# What means something in a state. Everything else is late or repeated, and has to leave it as it is.
MEANT = {
    source.Checking: (facts.CancelAsked, facts.Checked, facts.SourceGone),
    source.Preparing: (facts.CancelAsked, facts.DestinationReady, facts.DestinationFailed, facts.SourceGone),
    source.Offering: (facts.CancelAsked, facts.OfferDurable, facts.JournalFailed, facts.SourceGone),
    source.Copying: (
        facts.CancelAsked,
        facts.CopyProgress,
        facts.SourceStopped,
        facts.CopyCompleted,
        facts.CopyEnded,
        facts.SourceGone,
    ),
    source.Saving: (facts.CancelAsked, facts.CopyCompleted, facts.CopyEnded, facts.SourceGone),
    source.SwitchingOver: (facts.CancelAsked, facts.CopyCompleted, facts.CopyEnded, facts.SourceGone),
    source.Cancelling: (facts.CopyCompleted, facts.CopyEnded, facts.CancelFailed, facts.SourceGone),
    source.Withdrawing: (
        facts.WithdrawalDurable,
        *ANSWERS,
        facts.GuestRunning,
        facts.RunFailed,
        facts.JournalFailed,
        facts.SourceGone,
    ),
    source.Deciding: (facts.CancelAsked, facts.OperatorRunsHere, *ANSWERS, facts.SourceGone),
    source.Unsettled: (facts.CancelAsked, facts.OperatorRunsHere, facts.RecoverAsked, *ANSWERS, facts.SourceGone),
    source.Releasing: (facts.CopyDestroyed, facts.JournalFailed),
    source.LettingGo: (facts.CopyDestroyed, facts.JournalFailed),
    source.Confirming: ANSWERS,
    source.Resuming: (
        facts.WithdrawalDurable,
        facts.GuestRunning,
        facts.RunFailed,
        facts.JournalFailed,
        facts.SourceGone,
    ),
    source.Ended: (),
}
ONE_OF_EACH = (
    Transcript(),
    after(*TO_PREPARING),
    after(*TO_OFFERING),
    after(*TO_COPYING),
    after(*TO_SAVING, move=QUICK),
    after(*TO_SWITCHING_OVER),
    cancelling(),
    withdrawing(),
    after(*TO_DECIDING),
    unsettled(),
    releasing(),
    letting_go(),
    confirming(),
    resuming(),
    after(*TO_DECIDING, TAKEN, facts.CopyDestroyed()),
)


def test_the_samples_are_one_of_each_state_and_of_each_fact() -> None:
    assert {type(transcript.state) for transcript in ONE_OF_EACH} == set(source.State.__args__)
    assert {type(fact) for fact in EVERY_FACT} == set(facts.SourceFact.__args__)


@pytest.mark.parametrize("transcript", ONE_OF_EACH, ids=lambda t: type(t.state).__name__)
def test_late_facts_change_nothing(transcript: Transcript) -> None:
    for fact in EVERY_FACT:
        stood_down = isinstance(fact, facts.StoodDown) and not isinstance(
            transcript.state, source.Releasing | source.Confirming | source.Ended
        )
        if not stood_down and not isinstance(fact, MEANT[type(transcript.state)]):
            assert source.step(transcript.state, fact, transcript.now) == (transcript.state, ()), fact


GIVEN_BACK = facts.Answer(Decision.TAKEN, given_back=True)
UNDONE = (facts.WithdrawalDurable(), REFUSED, facts.GuestRunning())


@pytest.mark.parametrize(
    ("move", "told"),
    [
        (LIVE, (*TO_DECIDING, TAKEN, facts.CopyDestroyed())),
        (QUICK, (*TO_SAVED, TAKEN, facts.CopyDestroyed())),
        (LIVE, (*TO_DECIDING, REFUSED, facts.WithdrawalDurable(), facts.GuestRunning())),
        (LIVE, (*TO_DECIDING, CANCEL, REFUSED, facts.WithdrawalDurable(), facts.GuestRunning())),
        (LIVE, (*TO_SWITCHING_OVER, CANCEL, facts.CopyEnded("cancelled"), *UNDONE)),
        (LIVE, (*TO_OFFERING, facts.JournalFailed("disk full"), *UNDONE)),
        (LIVE, (*TO_DECIDING, GONE, REFUSED, facts.WithdrawalDurable())),
        (QUICK, (*TO_SAVING, GONE, facts.CopyEnded("dead"), *UNDONE)),
        (LIVE, (*TO_PREPARING, GONE, *UNDONE)),
        (LIVE, (*TO_DECIDING, GONE, ENDED_THERE, facts.CopyDestroyed())),
        (QUICK, (*TO_SAVED, GONE, ENDED_THERE, facts.CopyDestroyed())),
        (LIVE, (*TO_DECIDING, GIVEN_BACK, facts.ReturnDurable(), facts.GuestRunning())),
        (LIVE, (*TO_DECIDING, facts.OperatorRunsHere(), facts.OverrideDurable(), facts.GuestRunning())),
    ],
)
def test_facts_told_twice_do_nothing_twice(move: Move, told: tuple[Told, ...]) -> None:
    once, twice = after(*told, move=move), Transcript(move)
    twice.tell(*(fact for fact in told for _ in range(2)))
    assert isinstance(once.state, source.Ended)
    assert twice.ended == once.ended
    assert twice.asked_for == once.asked_for


def test_a_stale_silence_after_the_answer_changes_nothing() -> None:
    move = releasing()
    assert move.tell((99.0, SILENCE), (100.0, facts.Tick())) == []
