"""What QEMU does of itself: copies that go on, complete and fail, and processes that end."""

from __future__ import annotations

from collections.abc import Iterator

from tests.explorer.world import NAMES, Draft

from bascule.migration import destination, facts, source
from bascule.migration.model import Mode
from bascule.migration.recovery import Copy


def outgoing_move(draft: Draft, me: int) -> int:
    """Return the live move that the QEMU of a host is being copied by, or 0."""
    qemu = draft.host(me).qemu
    if qemu is None or qemu.outgoing is not Copy.UNDER_WAY:
        return 0
    for number in range(len(draft.rest.moves), qemu.move, -1):
        if draft.is_source(me, number):
            return number if draft.move(number).mode is Mode.LIVE else 0
    return 0


def goes_on(draft: Draft) -> Iterator[tuple[object, ...]]:
    """What QEMUs may do next."""
    for me in (0, 1):
        qemu = draft.host(me).qemu
        if qemu is None:
            continue
        number = outgoing_move(draft, me)
        if number:
            there = draft.host(1 - me).qemu
            if there is None or there.move != number:
                yield "copy fails", me, number
            elif qemu.running:
                yield "stops", me, number
            elif there.incoming is Copy.COMPLETE:
                yield "sent", me, number
        if qemu.incoming is Copy.UNDER_WAY:
            live = draft.move(qemu.move).mode is Mode.LIVE
            if qemu.arriving:
                yield "stream ends", me
            if (
                not live
                or qemu.arriving
                or (outgoing_move(draft, 1 - me) == qemu.move and _stands_still(draft, 1 - me))
            ):
                yield "loads", me
        elif qemu.incoming is Copy.COMPLETE and isinstance(draft.engine(me, qemu.move), destination.Receiving):
            yield "seen loaded", me  # QEMU did not answer when its agent came back, and does now


def _stands_still(draft: Draft, index: int) -> bool:
    qemu = draft.host(index).qemu
    return qemu is not None and not qemu.running


def stops(draft: Draft, me: int, number: int) -> None:
    """QEMU stops the VM for the switchover."""
    draft.put_qemu(me, running=False)
    draft.tell(me, number, facts.SourceStopped())


def sent(draft: Draft, me: int, number: int) -> None:
    """The destination's QEMU has said over the return path that it has everything."""
    draft.put_qemu(me, outgoing=Copy.COMPLETE)
    if isinstance(draft.engine(me, number), source.Copying):  # nobody saw the stop
        draft.tell(me, number, facts.SourceStopped())
    draft.tell(me, number, facts.CopyCompleted())


def loads(draft: Draft, me: int) -> None:
    """The destination's QEMU has everything."""
    qemu = draft.host(me).qemu
    assert qemu is not None
    draft.put_qemu(me, incoming=Copy.COMPLETE, earlier=True, arriving="")
    draft.tell(me, qemu.move, facts.IncomingLoaded())


def stream_ends(draft: Draft, me: int) -> None:
    """What has reached the destination is not everything."""
    qemu = draft.host(me).qemu
    assert qemu is not None
    if qemu.arriving == "silently":
        draft.put_qemu(me, arriving="")  # it waits on
    else:
        ends(draft, me)


def seen_loaded(draft: Draft, me: int) -> None:
    """A QEMU that did not answer says that it has everything."""
    qemu = draft.host(me).qemu
    assert qemu is not None
    draft.tell(me, qemu.move, facts.IncomingLoaded())


def fails(draft: Draft, me: int, number: int) -> None:
    """A live copy ends before it is complete: QEMU lets its VM run on by itself."""
    qemu = draft.host(me).qemu
    assert qemu is not None
    if outgoing_move(draft, me) != number:
        return
    draft.put_qemu(me, outgoing=Copy.NONE)
    break_stream(draft, number, stood_still=not qemu.running)
    if not qemu.running:
        draft.runs(me)


def copy_fails(draft: Draft, me: int, number: int) -> None:
    """As `fails`, and the agent sees it."""
    fails(draft, me, number)
    draft.tell(me, number, facts.CopyEnded(""))


def break_stream(draft: Draft, number: int, *, stood_still: bool, silently: bool = False) -> None:
    """The stream of a live move breaks: a QEMU that was still receiving it ends, unless it has everything already."""
    there = draft.destination(number)
    qemu = draft.host(there).qemu
    if qemu is None or qemu.move != number or qemu.incoming is not Copy.UNDER_WAY:
        return
    if stood_still:
        draft.put_qemu(there, arriving="silently" if silently else "broken")
    elif not silently:
        ends(draft, there)


def ends(draft: Draft, me: int, *, silently: bool = False) -> None:
    """The QEMU of a host ends; its agent sees that. `silently`: so does the network not, as when a host loses power."""
    gone = draft.host(me).qemu
    assert gone is not None
    leaving = outgoing_move(draft, me)
    draft.put(me, qemu=None)
    for number, _ in draft.host(me).engines:
        if draft.is_source(me, number):
            if number > gone.move:
                draft.tell(me, number, facts.SourceGone(""))
        elif number == gone.move:
            decided = isinstance(draft.engine(me, number), destination.Starting)
            under_way = any(move == number and draft.core.runs(command) for move, command in draft.host(me).todo)
            never_ran = decided and not under_way and certainly_never_ran(draft, me, number)
            draft.tell(me, number, facts.NeverRan("") if never_ran else facts.IncomingBroken(""))
    if leaving:
        break_stream(draft, leaving, stood_still=not gone.running, silently=silently)


def certainly_never_ran(draft: Draft, me: int, number: int) -> bool:
    """As the destination's shell knows it. What an operator gave to this host is not given back."""
    host = draft.host(me)
    by_an_operator = host.row is not None and host.row.owner == NAMES[me] and host.row.epoch > draft.move(number).epoch
    return not by_an_operator and not (host.marked and draft.core.marks_count)
