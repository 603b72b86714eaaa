"""A VM's place on its host's own bridge, held while it moves: its frames come to its tap, whatever the bridge hears.

On the source: once the destination has announced the VM, this host's bridge would send its frames back where they came
from, and drop them. That is right as long as none comes here any more. But a frame of the guest that still waits in
this host's uplink when the announcement passes tells every switch behind it that the VM is here, and every frame that
they then send here would be lost, until the destination announces again. So the bridge learns nothing of this MAC for
the time: what comes here comes to the tap, and is carried. On the destination, from the VM's run on: the same late
frame, flooded to this host, would tell its bridge that the VM is elsewhere.

A held place is a static entry of the bridge's table that is sticky (Linux 4.20; before, it moves like any other). It
goes with the tap, and is let go `HELD_S` after the stop or the move, so that a paused copy that is kept for long does
not swallow what others on its host send to the VM. An agent that dies leaves it; the next one lets it go.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from bascule.errors import Failed
from bascule.network.netlink import IPRoute, NetlinkError, netlink_batch

# linux/neighbour.h
_NTF_MASTER, _NTF_STICKY = 0x04, 0x40
_NUD_REACHABLE, _NUD_NOARP = 0x02, 0x40
HELD_S = 5.0  # frames come late by milliseconds, on a busy machine by tens of them


def hold_place(tap: str, mac: str) -> None:
    """Let the bridge of `tap` keep `mac` there, whatever it hears. It blocks: for a thread.

    Raises `Failed` when the tap is gone or is no bridge's port.
    """
    with _table(tap, mac) as (netlink, index):
        state, flags = _NUD_NOARP | _NUD_REACHABLE, _NTF_MASTER | _NTF_STICKY
        netlink.fdb("replace", ifindex=index, lladdr=mac, state=state, flags=flags)


def let_place_go(tap: str, mac: str) -> None:
    """Let the bridge of `tap` learn anew where `mac` is: until it knows, it sends everywhere. It blocks.

    Raises as `hold_place`.
    """
    with _table(tap, mac) as (netlink, index):
        try:
            netlink.fdb("del", ifindex=index, lladdr=mac, flags=_NTF_MASTER)
        except NetlinkError as error:
            if error.code != errno.ENOENT:  # it is not there: it has been heard elsewhere
                raise


def set_places(set_place: Callable[[str, str], None], places: Iterable[tuple[str, str]]) -> None:
    """Do one of these for each tap and MAC. Raises the first of what they raised, after all have been tried."""
    failures: list[Failed] = []
    for tap, mac in places:
        try:
            set_place(tap, mac)
        except Failed as error:
            failures.append(error)
    if failures:
        raise failures[0]


@contextmanager
def _table(tap: str, mac: str) -> Iterator[tuple[IPRoute, int]]:
    try:
        with netlink_batch() as netlink:
            yield netlink, netlink.link("get", ifname=tap)[0]["index"]
    except NetlinkError as error:
        raise Failed(f"cannot set the place of {mac} on tap {tap}: {os.strerror(error.code)}") from error
