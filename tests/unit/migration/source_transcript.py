"""Transcripts of the source's side: what they are made of, and moves that have come to each state."""

from dataclasses import replace

from bascule.migration import commands as do
from bascule.migration import facts, source
from bascule.migration.model import Decision, Mode, Move, Outcome

MIB = 1 << 20
LIVE = Move("m1", "web", "uuid", "h1", "h2", epoch=2)
QUICK = replace(LIVE, mode=Mode.QUICK)
TAKEN = facts.Answer(Decision.TAKEN, running=True)
REFUSED = facts.Answer(Decision.REFUSED, reason="its QEMU died")
ENDED_THERE = facts.Answer(Decision.TAKEN, reason="its QEMU has ended", ended=True)
SILENCE = facts.NoAnswer("cannot be reached")
CANCEL = facts.CancelAsked("ann")
GONE = facts.SourceGone("was ended by SIGKILL")

Told = facts.SourceFact | tuple[float, facts.SourceFact]


class Transcript:
    """A move as it goes: `tell` gives it facts, with a time or at the time of the last one."""

    def __init__(self, move: Move = LIVE, state: source.State | None = None) -> None:
        self.now = 0.0
        self.state, commands = source.begin(move) if state is None else (state, ())
        self.asked_for: list[do.SourceCommand] = list(commands)

    def tell(self, *told: Told) -> list[do.SourceCommand]:
        """Tell facts; return what is asked for because of them."""
        asked_for: list[do.SourceCommand] = []
        for item in told:
            self.now, fact = item if isinstance(item, tuple) else (self.now, item)
            before = self.state
            self.state, commands = source.step(before, fact, self.now)
            assert type(self.state) is type(before) or type(self.state) in source.SUCCESSORS[type(before)]
            asked_for += commands
        self.asked_for += asked_for
        return asked_for

    @property
    def ended(self) -> tuple[Outcome, str]:
        assert isinstance(self.state, source.Ended)
        return self.state.ending.outcome, self.state.ending.reason


def progress(remaining_mib: float, sent_mib: float, *, at_round_end: bool = True) -> facts.CopyProgress:
    return facts.CopyProgress(1, int(remaining_mib * MIB), int(sent_mib * MIB), 1000 * MIB, at_round_end=at_round_end)


TO_PREPARING: tuple[Told, ...] = (facts.Checked(),)
TO_OFFERING = (*TO_PREPARING, facts.DestinationReady("tcp:h2:49152"))
TO_COPYING = (*TO_OFFERING, facts.OfferDurable())
TO_SWITCHING_OVER = (*TO_COPYING, facts.SourceStopped())
TO_DECIDING = (*TO_SWITCHING_OVER, facts.CopyCompleted())
TO_SAVING = TO_COPYING
TO_SAVED = (*TO_SAVING, facts.SourceStopped(), facts.CopyCompleted("/shared/state"))


def after(*told: Told, move: Move = LIVE) -> Transcript:
    transcript = Transcript(move)
    transcript.tell(*told)
    return transcript


def cancelling(move: Move = LIVE) -> Transcript:
    return after(*TO_COPYING, CANCEL, move=move)


def withdrawing() -> Transcript:
    return after(*TO_SWITCHING_OVER, facts.CopyEnded("broken pipe"))


def unsettled() -> Transcript:
    return after(*TO_DECIDING, (16.0, SILENCE))


def releasing() -> Transcript:
    return after(*TO_DECIDING, TAKEN)


def letting_go() -> Transcript:
    return after(*TO_DECIDING, GONE, ENDED_THERE)


def confirming() -> Transcript:
    state, _ = source.step(unsettled().state, facts.StoodDown("h2", "an operator let vm web run on h2"), 20.0)
    move = Transcript(LIVE, state)
    move.tell((20.0, facts.CopyDestroyed()))
    return move


def resuming() -> Transcript:
    return after(*TO_DECIDING, REFUSED)
