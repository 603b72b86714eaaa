"""The destination's side of a move, as transcripts: what is told, what state follows, what is asked for."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from bascule.migration import commands as do
from bascule.migration import destination, facts
from bascule.migration.model import Decision, Mode, Move

LIVE = Move("m1", "web", "uuid", "h1", "h2", epoch=2)
QUICK = replace(LIVE, mode=Mode.QUICK)
TAKE = facts.TakeAsked()
TAKE_FILE = facts.TakeAsked("/shared/state")
REFUSE = facts.RefuseAsked("cancelled by ann")
BROKEN = facts.IncomingBroken("QEMU on h2 was ended by SIGKILL")
NEVER_RAN = facts.NeverRan("QEMU on h2 was ended by SIGKILL")
OPERATOR = facts.OperatorRunsHere("ann")
STAND_DOWN = facts.StoodDown("h1", "an operator let vm web run on h1")
WRITE_TAKEN, WRITE_REFUSED = do.Decide(Decision.TAKEN), do.Decide(Decision.REFUSED)
TAKEN, REFUSED = facts.Decided(Decision.TAKEN), facts.Decided(Decision.REFUSED)
TO_STARTING = (facts.IncomingReady("tcp:h2:49152"), facts.IncomingLoaded(), TAKE, TAKEN)
LET_RUN = [do.RunVcpus(), do.AnnounceHere()]

Told = facts.DestinationFact | tuple[float, facts.DestinationFact]


class Transcript:
    """A move as it comes in: `tell` gives it facts, with a time or at the time of the last one."""

    def __init__(self, move: Move = LIVE) -> None:
        self.now = 0.0
        self.state, commands = destination.begin(move)
        self.asked_for: list[do.DestinationCommand] = list(commands)

    def tell(self, *told: Told) -> list[do.DestinationCommand]:
        """Tell facts; return what is asked for because of them."""
        asked_for: list[do.DestinationCommand] = []
        for item in told:
            self.now, fact = item if isinstance(item, tuple) else (self.now, item)
            before = self.state
            self.state, commands = destination.step(before, fact, self.now)
            assert type(self.state) is type(before) or type(self.state) in destination.SUCCESSORS[type(before)]
            asked_for += commands
        self.asked_for += asked_for
        return asked_for


def after(*told: Told, move: Move = LIVE) -> Transcript:
    transcript = Transcript(move)
    transcript.tell(*told)
    return transcript


def receiving(move: Move = LIVE) -> Transcript:
    return after(facts.IncomingReady("tcp:h2:49152"), move=move)


def loaded() -> Transcript:
    return after(facts.IncomingReady("tcp:h2:49152"), facts.IncomingLoaded())


def taking() -> Transcript:
    return after(facts.IncomingReady("tcp:h2:49152"), facts.IncomingLoaded(), TAKE)


def starting() -> Transcript:
    return after(facts.IncomingReady("tcp:h2:49152"), facts.IncomingLoaded(), TAKE, TAKEN)


def refusing() -> Transcript:
    return after(facts.IncomingReady("tcp:h2:49152"), REFUSE)


def returning() -> Transcript:
    return after(*TO_STARTING, NEVER_RAN)


def discarding() -> Transcript:
    return after(facts.IncomingReady("tcp:h2:49152"), REFUSE, REFUSED)


# --- moves that go well -----------------------------------------------------------------------------------------------


def test_a_live_move_comes_in_step_by_step() -> None:
    move = Transcript()
    assert move.asked_for == [do.StartIncoming()]
    assert move.tell(facts.IncomingReady("tcp:h2:49152")) == []
    assert move.state == destination.Receiving(LIVE, "tcp:h2:49152", ask_source_s=3.0)
    assert move.tell(facts.StopNotice()) == [do.AnnounceHere()]
    assert move.tell(facts.IncomingLoaded()) == []
    assert move.tell(TAKE) == [WRITE_TAKEN]
    assert move.tell(TAKEN) == LET_RUN
    assert move.tell(facts.GuestRunning()) == []
    assert move.state == destination.Ran(LIVE)


def test_the_source_s_word_may_be_quicker_than_our_own_qemu() -> None:
    move = receiving()
    assert move.tell(TAKE) == []
    assert move.tell(facts.IncomingLoaded()) == [WRITE_TAKEN]


def test_the_notice_of_the_stop_may_come_after_everything_is_loaded() -> None:
    assert loaded().tell(facts.StopNotice()) == [do.AnnounceHere()]


def test_a_quick_migration_comes_in_step_by_step() -> None:
    move = receiving(QUICK)
    assert move.tell(TAKE_FILE) == [do.LoadState("/shared/state")]
    assert move.tell(TAKE_FILE) == []  # asked again while it is loading
    assert move.tell((900.0, facts.Tick())) == []  # loading takes as long as it takes
    assert move.tell(facts.IncomingLoaded()) == [WRITE_TAKEN]
    assert move.tell(TAKEN, facts.GuestRunning()) == LET_RUN


# --- nothing runs, and nothing is destroyed, before it may ------------------------------------------------------------


def test_taken_is_written_only_with_both_the_state_and_the_word() -> None:
    move = loaded()
    move.tell(facts.StopNotice(), facts.Tick(), (9.0, facts.Tick()), facts.IncomingReady("tcp:h2:1"), TAKEN)
    assert WRITE_TAKEN not in move.asked_for
    move = receiving()
    move.tell(TAKE, TAKE, facts.StopNotice(), (1.0, facts.Tick()), TAKEN)
    assert WRITE_TAKEN not in move.asked_for


def test_the_vcpus_run_only_after_taken_is_durable() -> None:
    move = taking()
    move.tell(TAKE, facts.Tick(), facts.GuestRunning(), (9.0, facts.Tick()))
    assert do.RunVcpus() not in move.asked_for
    move.tell(TAKEN)
    assert do.RunVcpus() in move.asked_for


def test_the_copy_is_destroyed_only_after_refused_is_durable() -> None:
    move = refusing()
    assert move.tell(REFUSE, BROKEN, TAKE, (9.0, facts.Tick())) == []
    assert move.tell(REFUSED) == [do.DestroyIncoming()]


def test_a_silent_source_changes_nothing_however_long_it_is_silent() -> None:
    for move in (receiving(), loaded(), receiving(QUICK)):
        before = type(move.state)
        asked_for = move.tell(*((float(second), facts.Tick()) for second in range(1, 3600)))
        assert type(move.state) is before
        assert set(asked_for) == {do.AskSource()}
        assert 3600 / 4 <= len(asked_for) <= 3600 / 3


def test_the_source_is_not_asked_again_at_once() -> None:
    move = receiving()
    assert move.tell((2.9, facts.Tick())) == []
    assert move.tell((3.0, facts.Tick()), (3.1, facts.Tick())) == [do.AskSource()]
    assert move.tell((6.1, facts.Tick())) == [do.AskSource()]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [Transcript, receiving, loaded])
@pytest.mark.parametrize("why", [REFUSE, BROKEN])
def test_before_the_decision_a_wish_or_a_breakdown_refuses(
    start: Callable[[], Transcript], why: facts.RefuseAsked | facts.IncomingBroken
) -> None:
    move = start()
    assert move.tell(why) == [WRITE_REFUSED]
    assert move.tell(REFUSED) == [do.DestroyIncoming()]
    assert move.tell(facts.IncomingDestroyed()) == []
    assert move.state == destination.Discarded(LIVE, why.reason)


def test_a_word_before_anything_could_be_sent_is_refused() -> None:
    assert Transcript().tell(TAKE) == [WRITE_REFUSED]


def test_a_word_without_a_saved_state_to_load_is_refused() -> None:
    move = receiving(QUICK)
    assert move.tell(TAKE) == [WRITE_REFUSED]
    assert move.tell(REFUSED) == [do.DestroyIncoming()]


def test_a_state_that_never_arrives_is_refused_when_a_source_that_lives_asks_again() -> None:
    move = receiving()
    move.tell((10.0, TAKE))
    assert move.tell((15.0, facts.Tick()), TAKE) == []
    assert move.tell((15.1, facts.Tick())) == [do.LookAtIncoming()]
    assert move.tell((15.2, TAKE)) == [WRITE_REFUSED]
    move.tell(facts.IncomingLoaded())  # in the very last moment: too late, `refused` is being written
    assert move.tell(REFUSED) == [do.DestroyIncoming()]


def test_what_a_silent_source_has_sent_is_looked_at_and_kept_as_long_as_its_qemu_says_nothing() -> None:
    """Its host may have lost power right after its word, and everything may have come here."""
    move = receiving()
    move.tell((10.0, TAKE))
    assert move.tell((15.1, facts.Tick())) == [do.LookAtIncoming()]
    assert move.tell((34.0, facts.Tick())) == []
    assert move.tell((900.0, facts.Tick())) == [do.LookAtIncoming()]
    assert move.tell(facts.IncomingLoaded()) == [WRITE_TAKEN]


def test_what_may_be_the_last_copy_is_looked_at_and_waited_for_as_long_as_its_qemu_says_nothing() -> None:
    last_copy = facts.TakeAsked(last_copy=True)
    for words in ([last_copy], [TAKE, last_copy], [last_copy, TAKE]):
        move = receiving()
        move.tell((10.0, words[0]), *words[1:])
        assert move.tell((15.0, facts.Tick())) == []
        assert move.tell((15.1, facts.Tick())) == [do.LookAtIncoming()]
        assert move.tell((34.0, facts.Tick())) == []
        assert move.tell((900.0, facts.Tick())) == [do.LookAtIncoming()]
        assert move.tell(facts.IncomingLoaded()) == [WRITE_TAKEN]
    move = receiving()
    move.tell(last_copy)
    assert move.tell(BROKEN) == [WRITE_REFUSED]


def test_a_state_that_cannot_be_loaded_is_refused() -> None:
    move = receiving(QUICK)
    move.tell(TAKE_FILE)
    assert move.tell(facts.IncomingBroken("the saved state is damaged")) == [WRITE_REFUSED]


# --- the register has the last word -----------------------------------------------------------------------------------


def test_a_register_that_held_refused_is_obeyed() -> None:
    move = taking()
    assert move.tell(REFUSED) == [do.DestroyIncoming()]
    assert move.state == destination.Discarding(LIVE, "the register already held `refused`")


def test_a_register_that_held_taken_is_obeyed() -> None:
    move = refusing()
    assert move.tell(TAKEN) == LET_RUN
    assert isinstance(move.state, destination.Starting)


@pytest.mark.parametrize(("start", "written"), [(taking, WRITE_TAKEN), (refusing, WRITE_REFUSED)])
def test_a_register_that_cannot_be_written_is_written_later(
    start: Callable[[], Transcript], written: do.Decide
) -> None:
    move = start()
    for second in range(10, 20):
        assert move.tell((float(second), facts.JournalFailed("disk full")), (second + 0.4, facts.Tick())) == []
        assert move.tell((second + 0.6, facts.Tick()), (second + 0.7, facts.Tick())) == [written]
    move.tell(facts.Decided(written.decision))
    assert isinstance(move.state, destination.Starting | destination.Discarding)


@pytest.mark.parametrize("why", [REFUSE, BROKEN])
def test_while_taken_cannot_be_written_it_may_still_be_refused(why: facts.DestinationFact) -> None:
    move = taking()
    assert move.tell(why) == []  # the write is under way
    assert move.tell((1.0, facts.JournalFailed("disk full")), why) == [WRITE_REFUSED]
    assert move.tell(TAKEN) == LET_RUN  # but the first write was made after all


# --- after the decision -----------------------------------------------------------------------------------------------


def test_a_vm_that_does_not_run_at_once_is_let_run_again_ever_more_patiently() -> None:
    move = starting()
    now, waits = 10.0, []
    for _ in range(8):
        move.tell((now, facts.RunFailed("Failed to get a lock")))
        began = now
        while not move.tell((now, facts.Tick())):
            now += 0.25
        waits.append(now - began)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]
    assert isinstance(move.state, destination.Starting)
    assert move.state.failure == "Failed to get a lock"
    assert move.tell(facts.GuestRunning()) == [do.AnnounceHere()]  # not with each attempt: it may be elsewhere by then
    assert move.state == destination.Ran(LIVE)


def test_nothing_that_happens_after_taken_gives_the_vm_back() -> None:
    move = starting()
    assert move.tell(REFUSE, BROKEN, TAKE, REFUSED, facts.IncomingDestroyed()) == []
    assert isinstance(move.state, destination.Starting)


# --- the VM never ran here, and is given back -------------------------------------------------------------------------


def test_a_vm_that_was_taken_and_certainly_never_ran_is_given_back_and_then_discarded() -> None:
    move = starting()
    assert move.tell(NEVER_RAN) == [do.GiveBack()]
    assert move.state == destination.Returning(LIVE, NEVER_RAN.reason)
    assert move.tell(TAKE, REFUSE, BROKEN, NEVER_RAN, TAKEN, REFUSED) == []
    assert move.tell(facts.GivenBack()) == [do.DestroyIncoming()]
    move.tell(facts.IncomingDestroyed())
    assert move.state == destination.Discarded(LIVE, NEVER_RAN.reason, given_back=True)


def test_a_return_that_cannot_be_written_is_written_later_and_nothing_is_destroyed_before() -> None:
    move = returning()
    for second in range(10, 20):
        assert move.tell((float(second), facts.JournalFailed("disk full")), (second + 0.4, facts.Tick())) == []
        assert move.tell((second + 0.5, facts.Tick()), (second + 0.6, facts.Tick())) == [do.GiveBack()]
    assert move.tell(facts.GivenBack()) == [do.DestroyIncoming()]


def test_while_the_vm_is_given_back_nothing_lets_it_run() -> None:
    move = returning()
    asked_for = move.tell(*((float(second), facts.Tick()) for second in range(100)), facts.RunFailed("late"))
    assert asked_for == []


def test_a_vm_that_an_operator_started_just_before_it_was_given_back_stays() -> None:
    move = returning()
    assert move.tell(facts.GuestRunning()) == []
    assert move.state == destination.Ran(LIVE)


NO = facts.RunFailed("Failed to get a lock", never_ran=True)


def refused_by_qemu(told: facts.TakeAsked = TAKE, tries: int = destination.RUN_TRIES) -> Transcript:
    """A VM that was taken, and that QEMU has refused to run `tries` times; the next try is due at 9 s past."""
    move = after(facts.IncomingReady("tcp:h2:49152"), facts.IncomingLoaded(), told, TAKEN)
    for second in range(10, 10 * tries, 10):
        assert move.tell((float(second), told), (float(second), NO), (second + 9.0, facts.Tick())) == [do.RunVcpus()]
    assert move.tell((10.0 * tries, NO)) == []
    return move


@pytest.mark.parametrize("word", [TAKE, REFUSE])
def test_a_vm_that_qemu_refuses_to_run_is_given_back_when_the_source_says_that_its_copy_lives(word: object) -> None:
    move = refused_by_qemu()
    assert move.tell(word) == [do.GiveBack()]
    assert move.state == destination.Returning(LIVE, "Failed to get a lock")


def test_without_the_source_s_word_it_is_tried_on_for_the_copy_here_may_be_the_last() -> None:
    move = refused_by_qemu()
    for minute in range(2, 100):
        assert move.tell((60.0 * minute, facts.Tick()), (60.0 * minute + 1, NO)) == [do.RunVcpus()]
    assert move.tell((9000.0, TAKE)) == [do.GiveBack()]


def test_it_is_not_given_back_while_it_is_being_let_run() -> None:
    move = refused_by_qemu()
    assert move.tell((900.0, facts.Tick()), TAKE, REFUSE) == [do.RunVcpus()]
    assert move.tell(facts.GuestRunning()) == [do.AnnounceHere()]
    assert move.state == destination.Ran(LIVE)


def test_it_is_given_back_on_no_early_word() -> None:
    move = refused_by_qemu(tries=destination.RUN_TRIES - 1)
    assert move.tell(TAKE, REFUSE) == []


@pytest.mark.parametrize("move", [refused_by_qemu(), starting()], ids=["late", "early"])
def test_it_is_never_given_back_once_the_source_s_copy_is_known_to_be_dead(move: Transcript) -> None:
    move.tell(facts.TakeAsked(last_copy=True))
    for second in range(1000, 1000 + 20 * destination.RUN_TRIES, 10):
        move.tell((second + 9.0, facts.Tick()), (second + 9.0, NO), TAKE, REFUSE)
    assert isinstance(move.state, destination.Starting)


@pytest.mark.parametrize(
    "told",
    [
        (facts.IncomingLoaded(), facts.TakeAsked(last_copy=True), TAKEN),
        (facts.TakeAsked(last_copy=True), facts.IncomingLoaded(), TAKEN),
    ],
)
def test_that_the_source_s_copy_is_dead_is_remembered_through_the_decision(told: tuple[Told, ...]) -> None:
    move = after(facts.IncomingReady("tcp:h2:49152"), *told)
    for second in range(10, 10 + 20 * destination.RUN_TRIES, 10):
        move.tell((second + 0.0, NO), (second + 0.0, TAKE), (second + 9.0, facts.Tick()))
    assert isinstance(move.state, destination.Starting)


def test_one_try_that_may_have_run_it_keeps_the_vm_here_for_good() -> None:
    for doubtful in range(destination.RUN_TRIES):
        move = starting()
        for attempt in range(4 * destination.RUN_TRIES):
            never_ran = attempt != doubtful
            no = facts.RunFailed("no", never_ran=never_ran)
            move.tell((attempt * 10.0, no), TAKE, (attempt * 10.0 + 9, facts.Tick()))
        assert isinstance(move.state, destination.Starting)
        assert do.GiveBack() not in move.asked_for


# --- it has ended here, and may have run ------------------------------------------------------------------------------

ENDED = facts.RunFailed("QEMU of vm web has ended", ended=True)


def test_what_was_told_to_have_ended_for_good_is_never_given_back() -> None:
    """Whatever is learned later: a source without a copy of its own has let go of it."""
    move = starting()
    for second in range(10, 200, 10):
        assert move.tell((float(second), ENDED), NEVER_RAN, TAKE, REFUSE, (second + 9.0, facts.Tick())) == [
            do.RunVcpus()
        ]
        move.tell((second + 9.0, NO))
        assert isinstance(move.state, destination.Starting)
        assert move.state.ended
    assert do.GiveBack() not in move.asked_for


def test_once_an_operator_has_started_it_the_move_is_over() -> None:
    move = starting()
    assert move.tell((10.0, ENDED), (10.5, facts.Tick())) == [do.RunVcpus()]
    assert move.tell(facts.GuestRunning()) == [do.AnnounceHere()]
    assert move.state == destination.Ran(LIVE)


# --- an operator's word -----------------------------------------------------------------------------------------------


def test_an_operator_s_word_stands_for_the_source_s() -> None:
    move = loaded()
    assert move.tell(OPERATOR) == [do.JournalOverride()]
    assert move.state == destination.Taking(LIVE, overruling=True)
    assert move.tell(TAKEN, facts.GuestRunning()) == LET_RUN
    assert move.state == destination.Ran(LIVE)


def test_an_operator_s_word_comes_too_late_where_the_register_holds_refused() -> None:
    move = loaded()
    move.tell(OPERATOR)
    assert move.tell(REFUSED) == [do.DestroyIncoming()]


def test_an_operator_s_word_that_cannot_be_written_is_written_later_as_such() -> None:
    move = loaded()
    move.tell(OPERATOR)
    assert move.tell((10.0, facts.JournalFailed("disk full")), (10.5, facts.Tick())) == [do.JournalOverride()]


@pytest.mark.parametrize("start", [Transcript, receiving, taking, starting, refusing, returning, discarding])
def test_an_operator_cannot_run_what_is_not_loaded_or_is_decided(start: Callable[[], Transcript]) -> None:
    move = start()
    assert move.tell(OPERATOR) == []


@pytest.mark.parametrize("start", [Transcript, receiving, loaded])
def test_who_stands_down_before_the_decision_refuses(start: Callable[[], Transcript]) -> None:
    move = start()
    assert move.tell(STAND_DOWN) == [WRITE_REFUSED]
    assert move.tell(REFUSED) == [do.DestroyIncoming()]


@pytest.mark.parametrize("start", [starting, returning])
def test_who_stands_down_after_the_decision_destroys_the_copy(start: Callable[[], Transcript]) -> None:
    move = start()
    assert move.tell(STAND_DOWN) == [do.DestroyIncoming()]
    assert move.state == destination.Discarding(LIVE, STAND_DOWN.reason)  # and does not say that it gave the VM back


# --- trying now -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [receiving, loaded])
def test_recover_asks_the_source_at_once(start: Callable[[], Transcript]) -> None:
    assert start().tell((0.1, facts.Tick()), (0.1, facts.RecoverAsked())) == [do.AskSource()]


@pytest.mark.parametrize(
    ("start", "failed"),
    [
        (taking, facts.JournalFailed("disk full")),
        (refusing, facts.JournalFailed("disk full")),
        (returning, facts.JournalFailed("disk full")),
        (starting, facts.RunFailed("no lock")),
        (discarding, facts.DestroyFailed("it hangs")),
    ],
)
def test_recover_tries_at_once_what_waits_for_its_next_try(
    start: Callable[[], Transcript], failed: facts.DestinationFact
) -> None:
    move = start()
    assert move.tell(facts.RecoverAsked()) == []  # it is being tried
    tried = [command for command in move.asked_for if command != do.AnnounceHere()][-1]
    assert move.tell((10.0, failed), (10.1, facts.RecoverAsked()), (10.2, facts.RecoverAsked())) == [tried]


# --- leftovers --------------------------------------------------------------------------------------------------------


def test_a_copy_that_cannot_be_removed_is_removed_later() -> None:
    move = discarding()
    assert move.tell((10.0, facts.DestroyFailed("it hangs")), (11.9, facts.Tick())) == []
    assert move.tell((12.1, facts.Tick()), (12.2, facts.Tick())) == [do.DestroyIncoming()]
    move.tell(facts.IncomingDestroyed())
    assert move.state == destination.Discarded(LIVE, "cancelled by ann")


# --- late and repeated facts ------------------------------------------------------------------------------------------

EVERY_FACT: tuple[facts.DestinationFact, ...] = (
    facts.Tick(),
    facts.RecoverAsked(),
    OPERATOR,
    STAND_DOWN,
    NEVER_RAN,
    facts.GivenBack(),
    facts.IncomingReady("tcp:late:1"),
    BROKEN,
    facts.IncomingLoaded(),
    facts.StopNotice(),
    TAKE,
    TAKE_FILE,
    REFUSE,
    TAKEN,
    REFUSED,
    facts.IncomingDestroyed(),
    facts.DestroyFailed("late"),
    facts.GuestRunning(),
    facts.RunFailed("late"),
    facts.JournalFailed("late"),
)
UNDECIDED = (facts.IncomingBroken, facts.TakeAsked, facts.RefuseAsked, facts.StoodDown)
# What means something in a state. Everything else is late or repeated, and has to leave it as it is.
MEANT = {
    destination.Preparing: (facts.IncomingReady, *UNDECIDED),
    destination.Receiving: (facts.IncomingLoaded, facts.StopNotice, facts.RecoverAsked, *UNDECIDED),
    destination.Loaded: (facts.StopNotice, facts.OperatorRunsHere, facts.RecoverAsked, *UNDECIDED),
    destination.Taking: (facts.Decided, facts.JournalFailed),
    destination.Refusing: (facts.Decided, facts.JournalFailed),
    destination.Starting: (facts.GuestRunning, facts.RunFailed, facts.NeverRan, facts.GivenBack, facts.StoodDown),
    destination.Returning: (
        facts.GivenBack,
        facts.GuestRunning,
        facts.RunFailed,
        facts.JournalFailed,
        facts.StoodDown,
    ),
    destination.Ran: (),
    destination.Discarding: (facts.IncomingDestroyed, facts.DestroyFailed),
    destination.Discarded: (),
}
ONE_OF_EACH = (
    Transcript(),
    receiving(),
    loaded(),
    taking(),
    refusing(),
    starting(),
    returning(),
    after(facts.IncomingReady("tcp:h2:49152"), facts.IncomingLoaded(), TAKE, TAKEN, facts.GuestRunning()),
    discarding(),
    after(facts.IncomingReady("tcp:h2:49152"), REFUSE, REFUSED, facts.IncomingDestroyed()),
)


def test_the_samples_are_one_of_each_state_and_of_each_fact() -> None:
    assert {type(transcript.state) for transcript in ONE_OF_EACH} == set(destination.State.__args__)
    assert {type(fact) for fact in EVERY_FACT} == set(facts.DestinationFact.__args__)


@pytest.mark.parametrize("transcript", ONE_OF_EACH, ids=lambda t: type(t.state).__name__)
def test_late_facts_change_nothing(transcript: Transcript) -> None:
    for fact in EVERY_FACT:
        if not isinstance(fact, MEANT[type(transcript.state)]):
            assert destination.step(transcript.state, fact, transcript.now) == (transcript.state, ()), fact


def test_a_late_take_after_refused_and_a_late_refuse_after_taken_change_nothing() -> None:
    assert discarding().tell(TAKE, TAKE_FILE, facts.IncomingLoaded()) == []
    assert starting().tell(REFUSE, facts.StopNotice()) == []


@pytest.mark.parametrize(
    ("move", "told"),
    [
        (LIVE, (facts.IncomingReady("tcp:h2:1"), facts.IncomingLoaded(), TAKE, TAKEN, facts.GuestRunning())),
        (LIVE, (facts.IncomingReady("tcp:h2:1"), TAKE, facts.IncomingLoaded(), TAKEN, facts.GuestRunning())),
        (QUICK, (facts.IncomingReady(""), TAKE_FILE, facts.IncomingLoaded(), TAKEN, facts.GuestRunning())),
        (LIVE, (facts.IncomingReady("tcp:h2:1"), REFUSE, REFUSED, facts.IncomingDestroyed())),
        (LIVE, (BROKEN, REFUSED, facts.IncomingDestroyed())),
        (LIVE, (*TO_STARTING, NEVER_RAN, facts.GivenBack(), facts.IncomingDestroyed())),
        (LIVE, (facts.IncomingReady("tcp:h2:1"), facts.IncomingLoaded(), OPERATOR, TAKEN, facts.GuestRunning())),
    ],
)
def test_facts_told_twice_do_nothing_twice(move: Move, told: tuple[facts.DestinationFact, ...]) -> None:
    once, twice = after(*told, move=move), Transcript(move)
    twice.tell(*(fact for fact in told for _ in range(2)))
    assert isinstance(once.state, destination.Ran | destination.Discarded)
    assert twice.state == once.state
    assert twice.asked_for == once.asked_for
