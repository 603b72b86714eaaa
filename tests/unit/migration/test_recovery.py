"""After a restart: every row of both tables of `bascule.migration.recovery`."""

from dataclasses import replace

import pytest

from bascule.migration import commands as do
from bascule.migration import destination, facts, source
from bascule.migration.model import Decision, Mode, Move, Outcome
from bascule.migration.ownership import BY_WORD_EPOCHS
from bascule.migration.recovery import Copy, incoming_copy, resume_destination, resume_source, source_copy

LIVE = Move("m1", "web", "uuid", "h1", "h2", epoch=2)
QUICK = replace(LIVE, mode=Mode.QUICK)
FILE = "/shared/state"
RESTARTED = source.Ending(Outcome.FAILED, "the agent of h1 was restarted during the move")
DIED = source.Ending(Outcome.FAILED, "QEMU on the source ended while its agent was away")

WITHDRAW = (source.Withdrawing(LIVE, RESTARTED), (do.JournalWithdrawal(),))
ASK = (source.Deciding(LIVE, 7.0), (do.AskTake(),))
CANCEL = (source.Cancelling(LIVE, RESTARTED), (do.CancelCopy(),))
NOTHING_TO_RUN = (source.Withdrawing(LIVE, DIED, gone=True), (do.JournalWithdrawal(),))
ASK_FOR_THE_DEAD = (source.Deciding(LIVE, 7.0, ending=DIED, source_gone=True), (do.AskTake(last_copy=True),))


@pytest.mark.parametrize(
    ("offered", "copy", "expected"),
    [
        (False, Copy.NONE, WITHDRAW),
        (False, Copy.UNDER_WAY, WITHDRAW),
        (False, Copy.COMPLETE, WITHDRAW),
        (False, Copy.GONE, NOTHING_TO_RUN),
        (True, Copy.COMPLETE, ASK),
        (True, Copy.UNDER_WAY, CANCEL),
        (True, Copy.NONE, WITHDRAW),
        (True, Copy.GONE, ASK_FOR_THE_DEAD),
    ],
)
def test_the_source_of_a_live_move(offered: bool, copy: Copy, expected: source.Step) -> None:
    assert resume_source(LIVE, offered=offered, copy=copy, state_file=None, now=7.0) == expected


def quick(step: source.Step, state_file: str | None = None) -> source.Step:
    state, commands = step
    if isinstance(state, source.Deciding):
        asked = do.AskTake(state_file, last_copy=state.source_gone)
        return replace(state, move=QUICK, state_file=state_file), (asked,)
    return replace(state, move=QUICK), commands


@pytest.mark.parametrize(
    ("offered", "copy", "state_file", "expected"),
    [
        (False, Copy.NONE, None, quick(WITHDRAW)),
        (False, Copy.UNDER_WAY, None, quick(WITHDRAW)),
        (False, Copy.COMPLETE, FILE, quick(WITHDRAW)),
        (False, Copy.GONE, FILE, quick(NOTHING_TO_RUN)),
        (True, Copy.NONE, None, quick(WITHDRAW)),
        (True, Copy.UNDER_WAY, None, quick(CANCEL)),
        # QEMU has written everything, but it is not known to be on disk: the destination was never told of it
        (True, Copy.COMPLETE, None, quick(WITHDRAW)),
        (True, Copy.GONE, None, quick(NOTHING_TO_RUN)),
        # the destination may have been told of the file, so nothing but its register counts
        (True, Copy.COMPLETE, FILE, quick(ASK, FILE)),
        (True, Copy.UNDER_WAY, FILE, quick(ASK, FILE)),
        (True, Copy.NONE, FILE, quick(ASK, FILE)),
        (True, Copy.GONE, FILE, quick(ASK_FOR_THE_DEAD, FILE)),
    ],
)
def test_the_source_of_a_quick_migration(
    offered: bool, copy: Copy, state_file: str | None, expected: source.Step
) -> None:
    assert resume_source(QUICK, offered=offered, copy=copy, state_file=state_file, now=7.0) == expected


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("copy", list(Copy))
def test_an_offer_that_stands_is_never_simply_dropped_when_the_word_may_have_been_given(mode: Mode, copy: Copy) -> None:
    """The word is given only after QEMU completed, and for a Quick Migration after the file was noted."""
    move = replace(LIVE, mode=mode)
    file = FILE if mode is Mode.QUICK else None
    state, _ = resume_source(move, offered=True, copy=copy, state_file=file, now=0.0)
    if mode is Mode.QUICK or copy in (Copy.COMPLETE, Copy.GONE):
        assert isinstance(state, source.Deciding)


@pytest.mark.parametrize(
    ("migration_status", "run_state", "expected"),
    [
        ("none", "running", Copy.NONE),
        ("failed", "running", Copy.NONE),
        ("failed", "paused", Copy.NONE),
        ("cancelled", "running", Copy.NONE),
        ("setup", "running", Copy.UNDER_WAY),
        ("active", "running", Copy.UNDER_WAY),
        ("active", "finish-migrate", Copy.UNDER_WAY),
        ("device", "finish-migrate", Copy.UNDER_WAY),
        ("cancelling", "running", Copy.UNDER_WAY),
        ("some-status-to-come", "running", Copy.UNDER_WAY),
        ("completed", "finish-migrate", Copy.COMPLETE),
        ("completed", "postmigrate", Copy.COMPLETE),
        ("completed", "prelaunch", Copy.COMPLETE),  # the guest had asked for a reset just before it was stopped
        ("completed", "running", Copy.NONE),  # by the move that brought the VM here
    ],
)
def test_what_qemu_says_of_its_copy(migration_status: str, run_state: str, expected: Copy) -> None:
    assert source_copy(migration_status, run_state) is expected


REFUSING = (
    destination.Refusing(LIVE, "QEMU on h2 ended while its agent was away"),
    (do.Decide(Decision.REFUSED),),
)
DISCARD = (
    destination.Discarding(LIVE, "the agent of h2 was restarted after it had refused"),
    (do.DestroyIncoming(),),
)
RUN = (destination.Starting(LIVE), (do.RunVcpus(), do.AnnounceHere()))
WAIT = (destination.Receiving(LIVE, "", 7.0), ())


@pytest.mark.parametrize(
    ("decision", "copy", "expected"),
    [
        (Decision.TAKEN, Copy.COMPLETE, RUN),
        (Decision.TAKEN, Copy.UNDER_WAY, RUN),
        (Decision.TAKEN, Copy.NONE, RUN),
        (Decision.REFUSED, Copy.COMPLETE, DISCARD),
        (Decision.REFUSED, Copy.UNDER_WAY, DISCARD),
        (Decision.REFUSED, Copy.NONE, DISCARD),
        (Decision.REFUSED, Copy.GONE, DISCARD),
        (None, Copy.COMPLETE, (destination.Loaded(LIVE, 7.0), ())),
        (None, Copy.UNDER_WAY, WAIT),
        (None, Copy.NONE, REFUSING),
        (None, Copy.GONE, REFUSING),
    ],
)
def test_the_destination_of_a_live_move(decision: Decision | None, copy: Copy, expected: destination.Step) -> None:
    assert resume_destination(LIVE, decision=decision, copy=copy, now=7.0) == expected


def test_a_destination_that_waits_for_a_saved_state_goes_on_waiting() -> None:
    state, commands = resume_destination(QUICK, decision=None, copy=Copy.NONE, now=7.0)
    assert (state, commands) == (destination.Receiving(QUICK, "", 7.0), ())
    _, commands = destination.step(state, facts.TakeAsked(FILE), 8.0)
    assert commands == (do.LoadState(FILE),)


def test_a_saved_state_that_was_loading_over_the_restart_is_not_lost() -> None:
    state, _ = resume_destination(QUICK, decision=None, copy=Copy.UNDER_WAY, now=7.0)
    state, _ = destination.step(state, facts.IncomingLoaded(), 8.0)
    _, commands = destination.step(state, facts.TakeAsked(FILE), 8.1)
    assert commands == (do.Decide(Decision.TAKEN),)


def test_a_restarted_destination_asks_the_source_at_once() -> None:
    for copy in (Copy.COMPLETE, Copy.UNDER_WAY):
        state, _ = resume_destination(LIVE, decision=None, copy=copy, now=7.0)
        assert destination.step(state, facts.Tick(), 7.1)[1] == (do.AskSource(),)


def test_a_vm_that_was_taken_and_has_no_qemu_waits_for_its_start() -> None:
    state, commands = resume_destination(LIVE, decision=Decision.TAKEN, copy=Copy.GONE, now=7.0)
    assert isinstance(state, destination.Starting)
    assert commands == ()
    assert state.failure == "its QEMU ended while the agent was away; start it: bascule vm start web"
    state, commands = destination.step(state, facts.Tick(), 7.6)
    assert commands == (do.RunVcpus(),)  # which finds it, once the operator has started it
    state, _ = destination.step(state, facts.GuestRunning(), 7.7)
    assert state == destination.Ran(LIVE)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_vm_that_was_taken_and_certainly_never_ran_is_given_back(mode: Mode) -> None:
    move = replace(LIVE, mode=mode)
    state, commands = resume_destination(move, decision=Decision.TAKEN, copy=Copy.GONE, now=7.0, never_ran=True)
    reason = "its QEMU ended before any vCPU ran, while the agent of h2 was away"
    assert (state, commands) == (destination.Returning(move, reason), (do.GiveBack(),))


@pytest.mark.parametrize("copy", [Copy.NONE, Copy.UNDER_WAY, Copy.COMPLETE])
def test_a_vm_that_was_taken_and_has_a_qemu_is_let_run_though_it_never_ran(copy: Copy) -> None:
    assert resume_destination(LIVE, decision=Decision.TAKEN, copy=copy, now=7.0, never_ran=True) == RUN


@pytest.mark.parametrize("decision", [None, Decision.REFUSED])
def test_what_was_not_taken_cannot_be_given_back(decision: Decision | None) -> None:
    _, commands = resume_destination(LIVE, decision=decision, copy=Copy.GONE, now=7.0, never_ran=True)
    assert do.GiveBack() not in commands


@pytest.mark.parametrize("copy", list(Copy))
@pytest.mark.parametrize("never_ran", [True, False])
def test_a_vm_that_was_given_back_is_never_run_here_again(copy: Copy, never_ran: bool) -> None:
    state, commands = resume_destination(
        LIVE, decision=Decision.TAKEN, copy=copy, now=7.0, never_ran=never_ran, given_back=True
    )
    reason = "the agent of h2 was restarted after it had given the VM back"
    assert (state, commands) == (destination.Discarding(LIVE, reason, given_back=True), (do.DestroyIncoming(),))
    state, _ = destination.step(state, facts.IncomingDestroyed(), 8.0)
    assert state == destination.Discarded(LIVE, reason, given_back=True)


@pytest.mark.parametrize(
    ("migration_status", "expected"),
    [
        ("none", Copy.NONE),
        ("failed", Copy.NONE),
        ("cancelled", Copy.NONE),
        ("setup", Copy.UNDER_WAY),
        ("active", Copy.UNDER_WAY),
        ("some-status-to-come", Copy.UNDER_WAY),
        ("completed", Copy.COMPLETE),
    ],
)
def test_what_qemu_says_of_what_comes_in(migration_status: str, expected: Copy) -> None:
    for run_state in ("inmigrate", "paused", "running"):
        assert incoming_copy(migration_status, run_state) is expected


@pytest.mark.parametrize("copy", list(Copy))
def test_a_vm_that_is_the_source_s_by_an_operator_s_word_runs_whatever_the_register_holds(copy: Copy) -> None:
    by_word = LIVE.epoch + BY_WORD_EPOCHS
    state, commands = resume_source(LIVE, offered=False, copy=copy, state_file=None, now=7.0, epoch=by_word)
    assert commands == (do.JournalOverride(),)
    assert isinstance(state, source.Resuming)
    assert state.gone is (copy is Copy.GONE)
    _, commands = source.step(state, facts.Answer(Decision.TAKEN), 8.0)
    assert commands == ()
    _, commands = source.step(state, facts.OverrideDurable(), 8.0)
    assert (do.RunVcpus() in commands) is (copy is not Copy.GONE)
