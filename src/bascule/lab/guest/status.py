"""The guest's `/status`: how it has fared, as JSON without a JSON library."""

from __future__ import annotations

import time

from bascule.lab.guest.dirtier import Dirtier
from bascule.lab.guest.drops import no_room, not_sent
from bascule.lab.guest.pace import Pace
from bascule.lab.guest.sequence import Progress
from bascule.lab.guest.settings import Settings
from bascule.lab.guest.sockets import Counters


class Status:
    """Everything that a client may ask about."""

    def __init__(
        self,
        *,
        settings: Settings,
        boot_id: str,
        counters: Counters,
        dirtier: Dirtier,
        pace: Pace,
        sequence: Progress | None,
    ) -> None:
        self._settings = settings
        self._boot_id = boot_id
        self._counters = counters
        self._dirtier = dirtier
        self._pace = pace
        self._sequence = sequence

    def text(self) -> str:
        """One JSON object. `uptime_s` counts from the kernel's start and stands still while no vCPU runs."""
        dirtier, counters, sequence = self._dirtier, self._counters, self._sequence
        now_ns = time.monotonic_ns()
        members = [
            f'"uptime_s":{now_ns / 1e9:.3f}',
            f'"boot_id":"{self._boot_id}"',
            f'"dirty_mib":{self._settings.dirty_mib}',
            f'"rate_wanted_mb_s":{self._settings.rate_mb_s}',
            f'"rate_mb_s":{self._pace.achieved_mb_s(now_ns):.1f}',
            f'"passes":{dirtier.passes}',
            f'"blocks_written":{dirtier.blocks_written}',
            f'"blocks_checked":{dirtier.blocks_checked}',
            f'"corrupt_blocks":{dirtier.corrupt_blocks}',
            f'"corruption":[{",".join(dirtier.stories)}]',
            f'"udp_datagrams":{counters.udp_datagrams}',
            f'"udp_unanswered":{counters.udp_unanswered}',
            f'"udp_no_room":{no_room()}',
            f'"not_sent":{not_sent()}',
            f'"tcp_connections":{counters.tcp_connections}',
            f'"tcp_bytes":{counters.tcp_bytes}',
            f'"http_requests":{counters.http_requests}',
        ]
        if sequence is None:
            members.append('"sequence":null')
        else:
            running = "true" if sequence.running else "false"
            members.append(
                f'"sequence":{{"number":{sequence.number},"conflicts":{sequence.conflicts},"running":{running}}}'
            )
        return "{" + ",".join(members) + "}\n"
