"""What happens, in plain words: a sentence for each happening, and the story that led to a violation."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from tests.explorer.shell import Cont, EndSource, FinishSaving, Listen, NameSavedState, NoteEnd, NoteIncoming
from tests.explorer.steps import Steps
from tests.explorer.world import NAMES, Broken, Draft, Message, World

from bascule.migration import commands as do
from bascule.migration import facts

COMMANDS: dict[type, str] = {
    do.CheckBothSides: "{me} checks both sides",
    do.JournalOffer: "{me} journals that the VM is offered to {you}",
    do.StartCopy: "{me} starts the copy",
    do.SaveState: "{me} stops the VM and begins to save its state",
    FinishSaving: "the saved state is whole",
    NameSavedState: "{me} journals the name of the saved state",
    do.CancelCopy: "{me} ends the copy",
    do.JournalWithdrawal: "{me} journals that its offer is settled: the VM stays",
    do.JournalReturn: "{me} journals that it has the VM back",
    do.JournalOverride: "{me} journals the operator's word for itself",
    do.DestroySource: "{me} journals that the VM is {you}'s",
    do.LetGo: "{me} journals that the VM is {you}'s and has ended there, which ends the move",
    EndSource: "{me} ends its own copy",
    do.RemoveSavedState: "{me} removes the saved state",
    do.RunVcpus: "{me} looks whether the VM may run here",
    Cont: "{me} tells its QEMU to run the VM",
    do.Conclude: "{me} tells the user: {outcome}",
    do.StartIncoming: "{me} starts a paused QEMU",
    NoteIncoming: "{me} journals its QEMU's process",
    Listen: "{me}'s QEMU waits for the state",
    do.LoadState: "{me} begins to load the saved state",
    do.Decide: "{me} writes the register, asking for `{decision}`",
    do.GiveBack: "{me} journals that it gives the VM back",
    do.LookAtIncoming: "{me} looks whether its QEMU still receives",
    do.DestroyIncoming: "{me} destroys what came in",
    NoteEnd: "{me} journals how its side ended",
}
HAPPENINGS = {
    "tells claim": "{me} tells {you} that an operator gave it the VM",
    "starts anew": "an operator starts the VM anew on {me}",
    "starts in vain": "an operator starts the VM anew on {me}, and its QEMU ends while it is told to run",
    "cancels": "the user cancels",
    "decides": "an operator says that {you} is down, and lets the VM run on {me}",
    "begins": "the user moves the VM from {me} to {you}",
    "returns": "the agent of {me} is back",
    "returns deaf": "the agent of {me} is back; neither its QEMU nor {you} answers it just then",
    "stops": "QEMU stops the VM on {me}",
    "sent": "QEMU on {me} has sent everything",
    "loads": "QEMU on {me} has loaded everything",
    "stream ends": "QEMU on {me} finds that the stream ended too early",
    "seen loaded": "QEMU on {me} answers again: it has loaded everything",
    "copy fails": "nobody receives the copy: QEMU on {me} gives it up, and the VM runs on there",
    "host dies": "host {me} loses power",
    "QEMU dies": "QEMU on {me} is killed",
    "cannot load": "QEMU on {me} cannot load the state, and ends",
    "agent dies": "the agent of {me} is killed",
    "relents": "QEMU on {me} would run the VM now",
    "copy breaks": "the copy fails: QEMU on {me} gives it up, and the VM runs on there",
}
FAILURES = {
    "not written": "{done} - that fails",
    "written unheard": "{done} - that is done, and told as failed",
    "runs unheard": "{done} - it runs, and nobody hears of that",
    "does not run, unheard": "{done} - it does not run, and nobody hears of that",
    "says no": "{done} - it says no",
    "disk full": "{done} - but the disk is full",
    "name is taken": "{done} - but another VM there has its name",
    "dies at the gate": "{done} - and the agent is killed after it has set its mark",
    "named all the same": "{done} - too late, its name is journalled",
}
MESSAGES = {
    "arrives": "{said}",
    "never sent": "NEVER SENT: {said}",
    "lost": "LOST: {said}",
    "twice": "REPEATED, and late: {said}",
    "too late": "GIVEN UP, and still on its way: {said}",
    "heard, and dies": "{said} - the agent of {me} is killed after it has written that",
}
QUESTIONS = {
    "prepare": "get ready",
    "take": "take the VM, my copy is complete and stands still",
    "refuse": "refuse the VM",
    "offer": "does the offer stand?",
    "claim": "an operator gave the VM to me",
}


def sentence(draft: Draft, what: tuple[Any, ...]) -> str:
    """Say what happens."""
    name = what[0]
    if name in MESSAGES:
        return _message(draft, name, draft.space.messages[what[1]])
    me, you = NAMES[what[1]], NAMES[1 - what[1]]
    if name == "performs":
        return _command(draft, what)
    if name in FAILURES:
        return FAILURES[name].format(done=_command(draft, what))
    if name == "time":
        number, start = what[2], what[3]
        long = dict(draft.host(what[1]).engines).get(number) != start
        return f"{me} has waited for {'a long time' if long else 'a little while'}"
    if name == "answers":
        return f"{me} cannot wait with its answer any longer ({QUESTIONS[what[2]]})"
    return HAPPENINGS[name].format(me=me, you=you)


def _command(draft: Draft, what: tuple[Any, ...]) -> str:
    command = draft.core.commands[what[2][1]]
    more = {"outcome": getattr(command, "outcome", ""), "decision": getattr(command, "decision", "")}
    return COMMANDS[type(command)].format(me=NAMES[what[1]], you=NAMES[1 - what[1]], **more)


def asked(message: Message) -> str:
    """Say what is asked."""
    dead = message.kind == "take" and getattr(message.fact, "last_copy", False)
    return "take the VM, my copy is dead" if dead else QUESTIONS[message.kind]


def _message(draft: Draft, name: str, message: Message) -> str:
    you, me = NAMES[message.to], NAMES[1 - message.to]
    if message.answer:
        said = f"{you} hears {me}'s answer to '{QUESTIONS[message.kind]}': {_fact(message)}"
    else:
        said = f"{you} is asked by {me}: {asked(message)}"
    if len(draft.rest.moves) > 1:
        said += f" [move {message.move}]"
    return MESSAGES[name].format(said=said, me=you)


def _fact(message: Message) -> str:
    match message.fact:
        case None:
            return "yes"
        case facts.Answer(given_back=True):
            return "taken, and given back"
        case facts.Answer(ended=True):
            return "taken, and it has ended there"
        case facts.Answer(decision=decision, running=running):
            return f"{decision}{', and it runs' if running else ''}"
        case fact:
            return type(fact).__name__ if not isinstance(fact, bool) else ("heard" if fact else "no")


def story(steps: Steps, worlds: Mapping[World, World | None], world: World, last: tuple[Any, ...], broken: str) -> str:
    """Tell how a world was reached, and what then broke a rule."""
    return tale(broken, [*way_to(steps, worlds, world), sentence(steps.draft(world), last)])


def tale(broken: str, lines: list[str]) -> str:
    """Put a story together."""
    return "\n".join([f"VIOLATION: {broken}", *(f"{number:4}. {line}" for number, line in enumerate(lines, 1))])


def way_to(steps: Steps, worlds: Mapping[World, World | None], world: World) -> list[str]:
    """Tell how a world was reached."""
    path = [world]
    while (before := worlds[path[-1]]) is not None:
        path.append(before)
    path.reverse()
    return [sentence(steps.draft(one), _between(steps, one, then)) for one, then in pairwise(path)]


def _between(steps: Steps, world: World, then: World) -> tuple[Any, ...]:
    for cost, what in steps.choices(world):
        try:
            if steps.after(world, cost, what) == then:
                return what
        except Broken:
            continue
    raise LookupError("no step leads from one world to the other")
