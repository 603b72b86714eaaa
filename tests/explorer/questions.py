"""Questions and answers between the agents, as `bascule.agent.peer_api` and what lies behind it do it."""

from __future__ import annotations

from typing import Any

from tests.explorer import lives, shell_source
from tests.explorer.shell_destination import known
from tests.explorer.world import Draft, Message, value_of, with_value

from bascule.migration import destination, facts
from bascule.migration.model import Decision

NOT_ANSWERED: dict[str, Any] = {
    "prepare": facts.DestinationFailed(""),
    "take": facts.NoAnswer(""),
    "refuse": facts.NoAnswer(""),
}


def arrives(draft: Draft, number: int) -> None:
    """A message, by its number, arrives; it has been taken out of the network."""
    message: Message = draft.space.messages[number]
    me = message.to
    if message.answer:
        _hears(draft, me, message.kind, message.move, message.fact)
    elif not draft.host(me).up:
        gives_up(draft, 1 - me, message.kind, message.move)
    else:
        _is_asked(draft, me, message)


def _is_asked(draft: Draft, me: int, message: Message) -> None:
    number = message.move
    if _is_stale(draft, me, message):
        gives_up(draft, 1 - me, message.kind, number)
        return
    match message.kind:
        case "prepare":
            _prepare(draft, me, number)
        case "take" | "refuse" if value_of(draft.host(me).engines, number) is not None:
            host = draft.host(me)
            draft.put(me, waiting=tuple(sorted({*host.waiting, (message.kind, number)})))
            draft.tell(me, number, message.fact)
        case "take" | "refuse":
            draft.decide(me, number, Decision.REFUSED)
            _answer(draft, me, message.kind, number, _remembered(draft, me, number))
        case "offer":
            _answer(draft, me, "offer", number, _standing(draft, me, number))
        case "claim":
            _answer(draft, me, "claim", number, lives.stands_down(draft, me, number, message.fact))


def _is_stale(draft: Draft, me: int, message: Message) -> bool:
    """Who has tried for so long that it would give the VM back hears nothing that was asked before it began.

    A question does not outlive the asker's patience, which is shorter than that: he has given up.
    """
    state = draft.engine(me, message.move)
    word = message.kind == "take" and not message.fact.last_copy
    gives_back = isinstance(state, destination.Starting) and state.never >= destination.RUN_TRIES
    return word and gives_back and not draft.rest.lost and not shell_source.my_qemu(draft, 1 - me, message.move)


def _hears(draft: Draft, me: int, kind: str, number: int, fact: Any) -> None:
    host = draft.host(me)
    if (kind, number) not in host.asking:
        return  # nobody waits for it any more
    draft.put(me, asking=tuple(asked for asked in host.asking if asked != (kind, number)))
    if kind == "claim":
        if fact and host.claim[1] == number:
            draft.put(me, claim=(0, 0))
    elif fact is not None:
        draft.tell(me, number, fact)


def gives_up(draft: Draft, me: int, kind: str, number: int) -> None:
    """Who has asked waits no longer, and knows nothing."""
    _hears(draft, me, kind, number, NOT_ANSWERED.get(kind))


def _answer(draft: Draft, me: int, kind: str, number: int, fact: Any) -> None:
    draft.send(Message(1 - me, kind, number, fact, answer=True))


def _prepare(draft: Draft, me: int, number: int) -> None:
    host = draft.host(me)
    if value_of(host.engines, number) is None:
        if known(draft, me, number):
            _answer(draft, me, "prepare", number, facts.DestinationFailed(""))
            return
        draft.put(me, records=with_value(host.records, number, ""))
        draft.enter(me, number, *draft.core.took(*destination.begin(draft.move(number))))
    draft.put(me, waiting=tuple(sorted({*draft.host(me).waiting, ("prepare", number)})))


def _remembered(draft: Draft, me: int, number: int) -> Any:
    decision, fate = draft.register_of(me, number)
    assert decision is not None
    taken = decision is Decision.TAKEN
    return facts.Answer(decision, running=taken and fate == "ran", given_back=taken and fate == "given back")


def _standing(draft: Draft, me: int, number: int) -> Any:
    """What a destination learns of an offer: nothing while it stands."""
    host = draft.host(me)
    offer = host.row.offer if host.row is not None else None
    stands = value_of(host.engines, number) is not None or (
        offer is not None and offer.move_id == draft.move(number).id
    )
    return None if stands else facts.RefuseAsked("")
