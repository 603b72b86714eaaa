"""The source's questions to the destination's decision register, and what their answers are to the engine."""

from __future__ import annotations

import asyncio
from typing import Any

from bascule.agent.clock import wall_us
from bascule.agent.host import Host
from bascule.agent.peers import NoAnswerError
from bascule.agent.switchover_line import SwitchoverLine
from bascule.errors import Refused
from bascule.migration import commands as do
from bascule.migration import facts
from bascule.migration.model import Decision, Move
from bascule.migration.story import Story

ANSWER_DEADLINE_S = 10.0  # the destination answers within less, if only to say that it is loading


async def ask_register(
    host: Host,
    peer: str,
    question: do.AskTake | do.AskRefuse,
    story: Story,
    now_s: float,
    *,
    line: SwitchoverLine | None = None,
    clean: bool = False,
) -> facts.Answer | facts.StillLoading | facts.NoAnswer:
    """Ask, and note in `story` what the destination says of its own clock. Raises NoAnswerError, BasculeError.

    `now_s` is when the move is asked for, in seconds since it began. The word goes by `line` as long as that stands.
    `clean`: nothing waits for a refusal but the end of the move, which is told when the destination is clean.
    """
    move = story.move
    register = {"vm_uuid": move.vm_uuid, "epoch": move.epoch}
    match question:
        case do.AskTake(state_file=state_file, last_copy=last_copy):
            what, body = "take", {**register, "state_file": state_file, "last_copy": last_copy}
        case do.AskRefuse(reason=reason):
            what, body = "refuse", {**register, "reason": reason, "clean": clean}
    asked_us = wall_us()
    path = f"/v1/peer/moves/{move.id}/{what}"
    try:
        if what == "take" and line is not None and line.standing:
            answer = await _by_line(line, body)
        else:
            answer = await host.peers.ask(peer, "POST", path, body, deadline_s=ANSWER_DEADLINE_S)
    except Refused as error:  # it cannot take part in this at all
        return facts.NoAnswer(str(error))
    if answer["decision"] is None:
        return facts.StillLoading(answer["reason"]) if answer["loading"] else facts.NoAnswer(answer["reason"])
    if answer["running"]:
        _note_times(story, move, answer["times_us"], now_s + (wall_us() - asked_us) / 1e6)
    ended = bool(answer.get("ended"))  # agents of older versions do not say so
    decision, given_back = Decision(answer["decision"]), answer["given_back"]
    return facts.Answer(decision, answer["running"], answer["reason"], given_back, ended)


async def _by_line(line: SwitchoverLine, word: dict[str, Any]) -> Any:
    try:
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            return await line.give_word(word)
    except TimeoutError:
        raise NoAnswerError(f"no answer to the word within {ANSWER_DEADLINE_S:g} s") from None


def _note_times(story: Story, move: Move, theirs: dict[str, Any], now_s: float) -> None:
    times = story.times

    def here_s(there_us: int | None) -> float:
        """Bring a reading of the destination's clock to the move's seconds."""
        return now_s - (0 if there_us is None else wall_us() + times.destination_ahead_us - there_us) / 1e6

    story.mark("RESUME", here_s(theirs["resumed"]))
    if theirs.get("announced") is not None:
        story.mark(f"announcement by {move.destination}", here_s(theirs["announced"]))
    times.asked_there, times.loaded = theirs["asked"], theirs["loaded"]
    times.decided, times.resumed = theirs["decided"], theirs["resumed"]
