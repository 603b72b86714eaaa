"""What is known of a VM in plain words, what would settle what is open, and what each choice risks.

For the operator at three in the morning: every state of a move in which somebody has to wait or to decide has its
sentences here, and nothing but what the state holds goes into them.
"""

from __future__ import annotations

from dataclasses import dataclass

from bascule.migration import destination, source
from bascule.migration.model import Mode, Move


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that the operator can do, as a command or in words, and what it risks."""

    action: str
    risk: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """`settled`: nothing is open. `known` and `settles` are whole sentences."""

    summary: str
    settled: bool = False
    known: tuple[str, ...] = ()
    settles: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()


def explain_source(state: source.State) -> Explanation:
    """Explain a VM that is moved away from this host, by the state of its move."""
    move = state.move
    match state:
        case source.Unsettled() | source.Deciding():
            return _undecided(state)
        case source.Cancelling() if state.try_again_s is not None:
            return Explanation(
                f"vm {move.vm} is on {move.source}, and its QEMU does not end the copy",
                known=("QEMU did not answer, or not in time. Whether the copy was complete is known once it does.",),
                settles=(f"QEMU of vm {move.vm} answers again, or ends. It is asked again every second.",),
                choices=(
                    Choice("wait, or find out why QEMU hangs (its storage, a frozen process)", "none"),
                    Choice(
                        "end its QEMU process by hand",
                        f"if {move.destination} has everything, the VM runs on there; if not, its memory is lost",
                    ),
                ),
            )
        case source.Withdrawing(failures=failures) | source.Resuming(failures=failures) if failures:
            return _cannot_run(state)
        case source.Releasing():
            where = state.ending.reason if state.ending is not None else f"vm {move.vm} runs on {move.destination}"
            return Explanation(where, known=(f"The old copy on {move.source} is being removed.",))
        case source.Ended():
            return Explanation(state.ending.reason, settled=True)
        case _:
            return Explanation(
                f"vm {move.vm} is being moved to {move.destination}",
                choices=(Choice(f"bascule cancel {move.vm}", f"the VM stays on {move.source}, if that is in time"),),
            )


def _undecided(state: source.Unsettled | source.Deciding) -> Explanation:
    move, here, there = state.move, state.move.source, state.move.destination
    known = [f"The VM's state was sent completely to {there}, and only {there} can tell whether it has taken the VM."]
    if state.source_gone:
        known.append(f"QEMU on {here} has ended: there is no copy on {here} to go on with.")
    else:
        known.append(f"The copy on {here} is complete and stands paused. It is kept.")
    if isinstance(state, source.Unsettled) and state.why:
        known.append(f"The last try: {state.why}.")
    copy = (
        "the VM starts anew from its disks; what was only in its memory is lost"
        if state.source_gone
        else ("it goes on from the moment at which it was stopped")
    )
    return Explanation(
        f"it is not known whether vm {move.vm} runs on {there}",
        known=tuple(known),
        settles=(
            f"The agent of {there} answers: {here} asks it again every few seconds, and does what follows by itself.",
            f"If you can look at {there} yourself: 'bascule status {move.vm}' there says whether the VM runs.",
        ),
        choices=(
            Choice(f"bascule recover {move.vm}", "none: it asks once more, at once"),
            Choice(f"wait, and bring {there} or the network to it back", "none but the time that the VM stands still"),
            Choice(
                f"bascule recover {move.vm} --run-here",
                f"only if {there} is down for certain, powered off or its QEMU ended: {copy}. If the VM runs on "
                f"{there} after all, two copies write to one disk until {there} hears of it and stands down, and what "
                "clients did there since is lost",
            ),
        ),
    )


def _cannot_run(state: source.Withdrawing | source.Resuming) -> Explanation:
    move = state.move
    return Explanation(
        f"vm {move.vm} belongs to {move.source} and could not be let run there yet",
        known=(f"{state.ending.reason}. QEMU could not be made to let it run, {state.failures} times so far.",),
        settles=("QEMU answers again, or its disks can be had again: it is tried every few seconds.",),
        choices=(
            Choice(f"bascule recover {move.vm}", "none: it is tried once more, at once"),
            Choice(f"bascule vm stop {move.vm} --force", "what was only in the VM's memory is lost"),
        ),
    )


def explain_destination(state: destination.State) -> Explanation:
    """Explain a VM that is moved to this host, by the state of its move."""
    move, here, there = state.move, state.move.destination, state.move.source
    match state:
        case destination.Loaded():
            return _loaded(move)
        case destination.Starting(failure=failure) if failure:
            return Explanation(
                f"vm {move.vm} belongs to {here} and does not run",
                known=(f"It was taken over from {there}. {failure}.",),
                settles=("It runs here, or it is given back because no vCPU of it has run.",),
                choices=(
                    Choice(f"bascule recover {move.vm}", "none: it is tried once more, at once"),
                    Choice(
                        f"bascule vm start {move.vm}, if its QEMU has ended",
                        f"it starts anew from its disks; the paused copy that {there} keeps is removed then",
                    ),
                ),
            )
        case destination.Discarded(reason=reason) | destination.Discarding(reason=reason):
            return Explanation(f"vm {move.vm} is not on {here}: {reason}", settled=True)
        case destination.Ran():
            return Explanation(f"vm {move.vm} runs on {here}", settled=True)
        case _:
            return Explanation(
                f"vm {move.vm} is coming in from {there}, which leads the move",
                known=(f"The copy on {here} is not complete yet, and does not run.",),
                settles=(f"{there} completes or cancels the move. Should it stay silent, {here} asks it.",),
                choices=(Choice(f"bascule status {move.vm} on {there}", "none"),),
            )


def _loaded(move: Move) -> Explanation:
    here, there = move.destination, move.source
    sent = "loaded from storage" if move.mode is Mode.QUICK else "received"
    return Explanation(
        f"a complete copy of vm {move.vm} waits on {here} for the word of {there}",
        known=(
            f"The VM's state was {sent} completely and stands paused on {here}.",
            f"{there} has not said that its own copy is complete and does not run. It may have let the VM run on.",
        ),
        settles=(
            f"The agent of {there} answers: {here} asks it again every few seconds, and does what follows by itself.",
        ),
        choices=(
            Choice(f"bascule recover {move.vm}", "none: it asks once more, at once"),
            Choice(
                f"bascule recover {move.vm} --run-here",
                f"only if {there} is down for certain, powered off or its QEMU ended: the VM goes on here from the "
                f"moment at which it was stopped there. If it runs on {there} after all, two copies write to one disk "
                f"until {there} hears of it and stands down, and what clients did there since is lost",
            ),
        ),
    )
