"""What is known of a VM in plain words, what would settle what is open, and what each choice risks.

For the operator at three in the morning: every state of a move has its sentences here, and nothing but what the state
holds goes into them. docs/unknown.md is the same for reading in advance.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from bascule.migration import destination, source
from bascule.migration.model import Mode, Move


class Standing(Enum):
    """Whether anybody has to do anything."""

    SETTLED = "settled"  # nothing is open
    UNDER_WAY = "under-way"  # something goes on by itself, and takes its usual time
    UNKNOWN = "unknown"  # something is missing: an answer, or room, or a decision


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that the operator can do, as a command on this host or in words, and what it risks."""

    action: str
    risk: str = "none"


@dataclass(frozen=True, slots=True)
class Explanation:
    """`known` and `settles` are whole sentences. `run_here_against`: the host that has to be down for `--run-here`."""

    summary: str
    standing: Standing = Standing.UNKNOWN
    known: tuple[str, ...] = ()
    settles: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    run_here_against: str | None = None


def _again(move: Move, what: str = "it is tried once more, at once") -> Choice:
    return Choice(f"bascule recover {move.vm}", f"none: {what}")


def _asked_on(asking: str, asked: str) -> str:
    return f"The agent of {asked} answers: {asking} asks it again every few seconds, and does what follows by itself."


def _journal_full(move: Move, host: str, what: str, meanwhile: str) -> Explanation:
    """The journal of `host` cannot be written, and `what` waits for it."""
    return Explanation(
        f"{what}, and the journal of {host} cannot be written",
        known=(meanwhile,),
        settles=(f"The disk that holds the journal of {host} has room and can be written: it is tried every second.",),
        choices=(Choice(f"make room on the disk of the journal (the agent's log on {host} names it)"), _again(move)),
    )


# --- on the source -------------------------------------------------------------------------------------------------


def explain_source(state: source.State) -> Explanation:
    """Explain a VM that is moved away from this host, by the state of its move."""
    move, here, there = state.move, state.move.source, state.move.destination
    moving = f"vm {move.vm} is being moved to {there}"
    cancel = Choice(f"bascule cancel {move.vm}", f"none: the VM stays on {here}, if that is in time")
    match state:
        case source.Checking() | source.Preparing() | source.Offering() | source.Copying():
            return Explanation(moving, Standing.UNDER_WAY, (f"It runs on {here} meanwhile.",), choices=(cancel,))
        case source.Saving():
            known = (f"It stands still on {here} while its state is saved.",)
            return Explanation(moving, Standing.UNDER_WAY, known, choices=(cancel,))
        case source.SwitchingOver():
            known = (f"It stands still on {here} while the last of its state is sent.",)
            return Explanation(moving, Standing.UNDER_WAY, known, choices=(cancel,))
        case source.Cancelling() if state.try_again_s is None:
            known = ("QEMU is ending the copy. Whether it was complete before that is known then.",)
            return Explanation(f"the move of vm {move.vm} to {there} is being called off", Standing.UNDER_WAY, known)
        case source.Cancelling():
            return _hangs(move)
        case source.Withdrawing(taken=True):
            return _on_both(state)
        case source.Withdrawing() | source.Resuming():
            return _stays(state)
        case source.Deciding():
            known = (f"Its state was sent completely. {there} takes it, or refuses it, and says so.",)
            return Explanation(f"vm {move.vm} is being handed over to {there}", Standing.UNDER_WAY, known)
        case source.Unsettled():
            return _unsettled(state)
        case source.Releasing() if state.try_again_s is not None:
            where = state.ending.reason if state.ending is not None else f"vm {move.vm} runs on {there}"
            return _journal_full(move, here, where, f"The old copy on {here} does not run. It is kept until then.")
        case source.Releasing():
            where = state.ending.reason if state.ending is not None else f"vm {move.vm} runs on {there}"
            return Explanation(where, Standing.UNDER_WAY, (f"The old copy on {here} is being removed.",))
        case source.LettingGo() if state.try_again_s is not None:
            return _journal_full(move, here, state.ending.reason, f"QEMU on {here} has ended.")
        case source.LettingGo():
            known = (f"What is left of it on {here} is being removed.",)
            return Explanation(state.ending.reason, Standing.UNDER_WAY, known)
        case source.Confirming():
            return _confirming(state)
        case source.Ended():
            return Explanation(state.ending.reason, Standing.SETTLED)
        case _:
            assert_never(state)


def _hangs(move: Move) -> Explanation:
    return Explanation(
        f"vm {move.vm} is on {move.source}, and its QEMU does not end the copy",
        known=("QEMU did not answer, or not in time. Whether the copy was complete is known once it does.",),
        settles=(f"QEMU of vm {move.vm} answers again, or ends. It is asked again every second.",),
        choices=(
            Choice("find out why QEMU hangs: its storage, a frozen process"),
            _again(move, "QEMU is asked once more, at once"),
            Choice(
                "end its QEMU process by hand",
                f"if {move.destination} has everything, the VM runs on there; if not, what was only in its memory is "
                "lost",
            ),
        ),
    )


def _stays(state: source.Withdrawing | source.Resuming) -> Explanation:
    """The VM is this host's, whatever else: it is tidied up, or QEMU has to be made to let it run."""
    move, here = state.move, state.move.source
    if not state.durable and state.try_again_s is not None:
        paused = "It does not run until then." if isinstance(state, source.Resuming) else "QEMU goes on as it is."
        return _journal_full(move, here, f"vm {move.vm} stays on {here}: {state.ending.reason}", paused)
    if not state.failures:
        known = (f"{state.ending.reason}.", "The other host is told, and what is left of the move is removed.")
        return Explanation(f"vm {move.vm} stays on {here}", Standing.UNDER_WAY, known)
    return Explanation(
        f"vm {move.vm} belongs to {here} and could not be let run there yet",
        known=(f"{state.ending.reason}. QEMU could not be made to let it run, {state.failures} times so far.",),
        settles=("QEMU answers again, or its disks can be had again: it is tried every few seconds.",),
        choices=(
            _again(move),
            Choice("end its QEMU process by hand, then start the VM anew", "what was only in its memory is lost"),
        ),
    )


def _unsettled(state: source.Unsettled) -> Explanation:
    move, here, there = state.move, state.move.source, state.move.destination
    if state.source_gone:
        copy = f"QEMU on {here} has ended: there is no copy on {here} to go on with."
        gain = "the VM is stopped and this host's again, to be started from its disks; what was only in its memory is "
        gain += "lost"
    else:
        copy = f"The copy on {here} is complete and stands paused. It is kept."
        gain = "it goes on from the moment at which it was stopped"
    known = [f"The VM's state was sent completely to {there}, and only {there} knows whether it has taken it.", copy]
    if state.why:
        known.append(f"The last try: {state.why}.")
    return Explanation(
        f"it is not known whether vm {move.vm} runs on {there}",
        known=tuple(known),
        settles=(
            _asked_on(here, there),
            f"If you can reach {there} yourself, 'bascule status {move.vm}' says there whether the VM runs.",
        ),
        choices=(
            _again(move, f"{there} is asked once more, at once"),
            Choice(f"wait, and bring {there} or the network to it back", "none but the time that the VM stands still"),
            _run_here(move, there, gain),
        ),
        run_here_against=there,
    )


def _on_both(state: source.Withdrawing) -> Explanation:
    move, here, there = state.move, state.move.source, state.move.destination
    return Explanation(
        f"vm {move.vm} may run on both hosts",
        known=(
            f"Its move to {there} was called off: {state.ending.reason}.",
            f"{there} has taken it all the same, which it does by an operator's word alone.",
        ),
        settles=(f"The agent of {there} tells of that word every few seconds, and the copy on {here} is ended then.",),
        choices=(
            _again(move, f"{there} is asked once more, at once"),
            Choice(f"on {there}: bascule status {move.vm}"),
            Choice(f"end its QEMU process on {here} by hand", f"what clients did on {here} since is lost"),
        ),
    )


def _confirming(state: source.Confirming) -> Explanation:
    move, here, there = state.move, state.move.source, state.move.destination
    last = (f"The last try: {state.why}.",) if state.why else ()
    return Explanation(
        f"vm {move.vm} belongs to {there}, and it is not known whether it runs there",
        Standing.UNKNOWN if state.told else Standing.UNDER_WAY,
        known=(f"{state.reason}. There is no copy of it on {here} any more.", *last),
        settles=(_asked_on(here, there),),
        choices=(
            _again(move, f"{there} is asked once more, at once"),
            Choice(f"on {there}: bascule status {move.vm}, which says what keeps it from running"),
        ),
    )


def _run_here(move: Move, other: str, gain: str) -> Choice:
    return Choice(
        f"bascule recover {move.vm} --run-here",
        f"only if {other} is down for certain, powered off or the VM's QEMU there ended: {gain}. If the VM runs on "
        f"{other} after all, two copies write to one disk until {other} hears of it and stands down, and what clients "
        "did there since is lost",
    )


# --- on the destination --------------------------------------------------------------------------------------------


def explain_destination(state: destination.State) -> Explanation:
    """Explain a VM that is moved to this host, by the state of its move."""
    move, here, there = state.move, state.move.destination, state.move.source
    match state:
        case destination.Preparing():
            known = (f"A paused copy is being started on {here}.",)
            return Explanation(f"vm {move.vm} is coming in from {there}", Standing.UNDER_WAY, known)
        case destination.Receiving():
            return _receiving(state)
        case destination.Loaded():
            return _loaded(move)
        case destination.Taking() | destination.Refusing() if state.try_again_s is not None:
            what = f"vm {move.vm} is to be {'taken' if isinstance(state, destination.Taking) else 'refused'} by {here}"
            return _journal_full(move, here, what, f"The copy on {here} stands paused, and is kept until then.")
        case destination.Taking():
            known = (f"Its state is on {here} completely, and the decision is being written.",)
            return Explanation(f"vm {move.vm} is being taken by {here}", Standing.UNDER_WAY, known)
        case destination.Starting() if state.ended:
            return _has_ended(state)
        case destination.Starting() if state.failure:
            return _does_not_run(state)
        case destination.Starting():
            return Explanation(f"vm {move.vm} belongs to {here} and is being let run", Standing.UNDER_WAY)
        case destination.Ran():
            return Explanation(f"vm {move.vm} runs on {here}", Standing.SETTLED)
        case destination.Returning() if state.try_again_s is not None:
            kept = f"No vCPU of it has run on {here}, and none will. {there} keeps its paused copy."
            return _journal_full(move, here, f"vm {move.vm} is to be given back to {there}", kept)
        case destination.Returning():
            known = (f"No vCPU of it has run on {here}: {state.reason}.",)
            return Explanation(f"vm {move.vm} is being given back to {there}", Standing.UNDER_WAY, known)
        case destination.Discarding() if state.try_again_s is not None:
            return Explanation(
                f"vm {move.vm} is not {here}'s, and its paused copy here cannot be removed yet",
                known=(f"{state.reason}. The copy never runs.",),
                settles=("Its QEMU process ends: it is tried every few seconds.",),
                choices=(_again(move), Choice("end its QEMU process by hand")),
            )
        case destination.Refusing() | destination.Discarding():
            known = ("The copy here is being removed.",)
            return Explanation(f"vm {move.vm} does not come to {here}: {state.reason}", Standing.UNDER_WAY, known)
        case destination.Discarded():
            return Explanation(f"vm {move.vm} is not on {here}: {state.reason}", Standing.SETTLED)
        case _:
            assert_never(state)


def _receiving(state: destination.Receiving) -> Explanation:
    move, here, there = state.move, state.move.destination, state.move.source
    summary = f"vm {move.vm} is coming in from {there}"
    if state.last_copy:
        known = (f"QEMU on {there} has ended. The copy on {here} may be the last one, and is being looked at.",)
        settles = (f"QEMU on {here} says whether the copy is complete: then the VM runs here, or it is gone.",)
        return Explanation(summary, Standing.UNDER_WAY, known, settles)
    if state.word_s is not None:
        known = (f"{there} has sent everything, and QEMU on {here} is loading it.",)
        return Explanation(summary, Standing.UNDER_WAY, known)
    return Explanation(
        f"{summary}, which leads the move",
        Standing.UNDER_WAY,
        known=(f"The copy on {here} is not complete yet, and does not run.",),
        settles=(f"{there} completes or cancels the move. Should it stay silent, {here} asks it every few seconds.",),
        choices=(
            Choice(f"on {there}: bascule status {move.vm}"),
            Choice(
                f"bascule cancel {move.vm}", f"none: the incomplete copy on {here} is removed, {there} keeps its own"
            ),
        ),
    )


def _loaded(move: Move) -> Explanation:
    here, there = move.destination, move.source
    sent = "loaded from storage" if move.mode is Mode.QUICK else "received"
    return Explanation(
        f"a complete copy of vm {move.vm} waits on {here} for the word of {there}",
        known=(
            f"The VM's state was {sent} completely and stands paused on {here}. It is kept.",
            f"{there} has not said that its own copy is complete and does not run. It may have let the VM run on.",
        ),
        settles=(
            _asked_on(here, there),
            f"If you can reach {there} yourself, 'bascule status {move.vm}' says there whether the VM runs.",
        ),
        choices=(
            _again(move, f"{there} is asked once more, at once"),
            Choice(f"wait, and bring {there} or the network to it back", "none but the time that the VM stands still"),
            _run_here(move, there, f"the VM goes on here from the moment at which it was stopped on {there}"),
        ),
        run_here_against=there,
    )


def _has_ended(state: destination.Starting) -> Explanation:
    move, here, there = state.move, state.move.destination, state.move.source
    return Explanation(
        f"vm {move.vm} belongs to {here} and is stopped",
        known=(
            f"It was taken over from {there}, and its QEMU on {here} has ended. It may have run before that, so it "
            f"is not given back to {there}.",
        ),
        settles=(f"It is started on {here}. Until then the move counts as not ended.",),
        choices=(
            Choice(
                f"bascule vm start {move.vm}",
                "it starts anew from its disks: what was only in its memory is lost, and a paused copy that "
                f"{there} may still keep is removed",
            ),
        ),
    )


def _does_not_run(state: destination.Starting) -> Explanation:
    move, here, there = state.move, state.move.destination, state.move.source
    return Explanation(
        f"vm {move.vm} belongs to {here} and does not run",
        known=(f"It was taken over from {there}. {state.failure}.",),
        settles=(f"It runs here, or it is given back to {there} because no vCPU of it has run here.",),
        choices=(
            _again(move),
            Choice(
                f"bascule vm start {move.vm}, if its QEMU has ended",
                f"it starts anew from its disks: what was only in its memory is lost, and the paused copy that {there} "
                "keeps is removed",
            ),
        ),
    )
