"""The rules that must never break: as they show in each world, and when everything has come to rest."""

from __future__ import annotations

from tests.explorer.shell_source import ended_there
from tests.explorer.world import NAMES, Broken, Draft

from bascule.migration import destination, source
from bascule.migration.model import Decision, Outcome


def look(draft: Draft, *, lies: bool = False) -> None:
    """Rules 1 to 3, in every world. Where an operator lies, rule 1 is kept in the end alone."""
    x, y = draft.hosts
    own = [host.row.epoch for host, name in zip((x, y), NAMES, strict=True) if host.row and host.row.owner == name]
    for host, name in zip((x, y), NAMES, strict=True):
        for move in draft.rest.moves:
            if move.destination == name and move.epoch in host.ran:
                held = [entry.value for epoch, entry, _ in host.register if epoch == move.epoch]
                if held != [Decision.TAKEN]:
                    raise Broken(f"{name} has run the VM and its register does not hold `taken`")
    if lies:
        return
    if x.qemu is not None and x.qemu.running and y.qemu is not None and y.qemu.running:
        raise Broken("two copies of the VM run")
    if not own:
        raise Broken("the VM belongs to neither host")
    if len(own) == 2 and own[0] == own[1]:
        raise Broken(f"both hosts own the VM at epoch {own[0]}")
    if not draft.rest.lost and not draft.copies():
        raise Broken("the last good copy of the VM was destroyed")


def look_at_the_end(draft: Draft, *, lies: bool = False) -> None:
    """One copy runs, nothing is left over and what was told is true; or it is unknown for a reason, and kept.

    An operator who was wrong may have lost the copy with which the VM could go on: that is what he was warned of.
    """
    x, y = draft.hosts
    if x.engines or y.engines:
        _look_at_unknown(draft)
        return
    rest = draft.rest
    running = [index for index in (0, 1) if (qemu := draft.hosts[index].qemu) is not None and qemu.running]
    forgiven = rest.lost or (lies and bool(rest.overruled))
    _must(len(running) == 1 or (not running and forgiven), f"{len(running)} copies run, and none was lost")
    owners = [i for i in (0, 1) if (row := draft.hosts[i].row) is not None and row.owner == NAMES[i]]
    _must(len(owners) == 1, f"{len(owners)} hosts own the VM")
    _must(not running or owners == running, "the VM runs where it does not belong")
    for name, host in zip(NAMES, draft.hosts, strict=True):
        _must(host.qemu is None or host.qemu.running, f"a copy is left on {name}")
        _must(host.row is None or host.row.offer is None, f"the offer of {name} stands for ever")
        _must(not host.claim[0], f"the claim of {name} is never heard")
        _must(not host.todo and not host.waiting, f"something is left to do on {name}")
    _must(not any(rest.saved), "a saved state is left behind")
    number = len(rest.moves)
    told = rest.told[number - 1]
    _must(told not in ("", Outcome.UNKNOWN.value), f"the outcome told in the end is {told or 'none'}")
    arrived = owners == [draft.destination(number)]
    by_word = arrived and rest.overruled  # an operator's: then it need not be by this move
    # Both copies were killed: it is started anew there.
    let_go = arrived and told == Outcome.FAILED.value and ended_there(draft, draft.destination(number))
    _must(
        (told == Outcome.COMPLETED.value) == arrived or bool(by_word) or let_go,
        f"the outcome told is {told}, and that is not true",
    )


def _look_at_unknown(draft: Draft) -> None:
    """All that may stay open by itself: the VM was taken, may have run, and its QEMU is dead. An operator starts it."""
    waits = source.Unsettled | source.Deciding | source.Confirming | destination.Starting
    starting = []
    for index in (0, 1):
        for number, _ in draft.hosts[index].engines:
            state = draft.engine(index, number)
            _must(isinstance(state, waits), f"it never comes to an end: {NAMES[index]} is {type(state).__name__}")
            if isinstance(state, destination.Starting):
                starting.append(index)
    _must(len(starting) == 1, "it is unknown, and nobody has taken the VM")
    (index,) = starting
    host = draft.hosts[index]
    _must(host.qemu is None, f"{NAMES[index]} has taken the VM, its QEMU lives, and it does not run")
    _must(host.marked or draft.rest.lost, f"{NAMES[index]} could have given the VM back")


def _must(held: bool, otherwise: str) -> None:
    if not held:
        raise Broken(otherwise)
