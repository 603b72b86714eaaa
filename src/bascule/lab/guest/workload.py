"""The guest's one program: services, dirtier and status in one loop, and a child for each sequence of records.

One loop and not a process for each, because every switch of the address space empties what software emulation has
learnt about it. Clients come first; the dirtier takes small steps in between.
"""

from __future__ import annotations

import _random
import _socket
import gc
import time

from bascule.lab.guest import sequence, sequence_network, settings
from bascule.lab.guest.dirtier import BLOCK_BYTES, POOL_BYTES, Dirtier
from bascule.lab.guest.echo import ECHO_PORT, TcpEcho, UdpEcho
from bascule.lab.guest.http import HTTP_PORT, HttpConnection, response
from bascule.lab.guest.loop import Loop
from bascule.lab.guest.pace import Pace
from bascule.lab.guest.sockets import Counters, Listener, bound
from bascule.lab.guest.status import Status

TYPE_CHECKING = False  # as `typing` has it, which takes too long to import
if TYPE_CHECKING:
    from collections.abc import Callable

READY = "bascule-guest: ready"
_LINK_DEADLINE_S = 2.0


def main() -> None:
    """Do what the kernel command line asks for, until the guest is switched off."""
    with open("/proc/cmdline") as file:  # noqa: PTH123  # the guest has no pathlib
        wanted = settings.parse(file.read())
    with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123
        boot_id = file.read().strip()
    progress = None
    if wanted.sequence:
        boot = bytes.fromhex(boot_id.replace("-", ""))
        progress = sequence.start(boot)
        sequence_network.start(boot)
    _wait_for_link()
    run(wanted, boot_id, progress)


def _wait_for_link() -> None:
    """Wait until eth0 carries packets, which the kernel may take a second to notice; without a link for no longer."""
    deadline_s = time.monotonic() + _LINK_DEADLINE_S
    while time.monotonic() < deadline_s:
        try:
            with open("/sys/class/net/eth0/operstate") as file:  # noqa: PTH123
                if file.read() == "up\n":
                    return
        except OSError:
            return  # there is no eth0
        time.sleep(0.01)


def run(
    wanted: settings.Settings,
    boot_id: str,
    progress: sequence.Progress | None = None,
    *,
    echo_port: int = ECHO_PORT,
    http_port: int = HTTP_PORT,
) -> None:
    """Serve, rewrite and check, for ever."""
    # No cycles are made, and a collection would be a pause that looks like a move's.
    gc.disable()
    # Not os.urandom: without a hardware source that waits a second for the kernel to gather randomness.
    pool = _random.Random(time.time_ns()).getrandbits(POOL_BYTES * 8).to_bytes(POOL_BYTES, "little")
    dirtier = Dirtier(wanted.dirty_mib, pool)
    pace = Pace(BLOCK_BYTES, time.monotonic_ns())
    counters = Counters()
    status = Status(settings=wanted, boot_id=boot_id, counters=counters, dirtier=dirtier, pace=pace, sequence=progress)
    pages = {b"GET /status": lambda: response("200 OK", status.text(), "application/json")}
    if wanted.injection:
        pages[b"POST /inject/byte"] = lambda: _inject(dirtier.flip_byte, dirtier)
        pages[b"POST /inject/page"] = lambda: _inject(dirtier.age_page, dirtier)

    loop = Loop()
    for family in _families():
        UdpEcho(loop, family, echo_port, counters)
        echo, http = (bound(family, _socket.SOCK_STREAM, port) for port in (echo_port, http_port))
        Listener(loop, echo, lambda sock: TcpEcho(loop, sock, counters))
        Listener(loop, http, lambda sock: HttpConnection(loop, sock, counters, pages))
    if progress is not None:
        _listen(loop, progress)
    print("\n" + READY, flush=True)  # a line of its own: the shell has written its prompt
    loop.run(_work(dirtier, pace, wanted.rate_mb_s) if wanted.dirty_mib else _rest)


def _families() -> list[int]:
    """The address families that the kernel has."""
    try:
        _socket.socket(_socket.AF_INET6, _socket.SOCK_DGRAM, 0).close()
    except OSError:
        return [_socket.AF_INET]
    return [_socket.AF_INET, _socket.AF_INET6]


def _rest(_clients_waiting: bool) -> float:
    return -1.0


def _work(dirtier: Dirtier, pace: Pace, rate_mb_s: float) -> Callable[[bool], float]:
    """What to do between the turns of the loop: fill the memory as fast as clients allow, then rewrite it."""
    filled = False

    def work(clients_waiting: bool) -> float:
        nonlocal filled
        if filled and not rate_mb_s:
            return -1.0
        now_ns = time.monotonic_ns()
        wait_s = pace.wait_s(now_ns, clients_waiting)
        if wait_s is not None:
            return wait_s
        dirtier.step()
        pace.stepped(now_ns)
        if dirtier.passes and not filled:
            filled = True
            pace.limit(rate_mb_s, now_ns)
        return 0.0

    return work


def _listen(loop: Loop, progress: sequence.Progress) -> None:
    """Take the appender's news for as long as there is one."""

    def news(_mask: int) -> None:
        if not progress.ready():
            loop.remove(progress.descriptor)

    loop.add(progress.descriptor, news)


def _inject(damage: Callable[[], None], dirtier: Dirtier) -> bytes:
    """Damage the memory, so that a test sees the damage found."""
    if dirtier.passes < 2:
        return response("409 Conflict", "not before two passes\n", "text/plain")
    damage()
    return response("200 OK", "done\n", "text/plain")
