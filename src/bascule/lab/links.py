"""The links between the members and the switch: their rate, and how to cut them.

The rate is held by a token bucket at both ends. Two ways of cutting show two kinds of trouble:

    carrier      the cable is pulled out: both ends see it at once
    black hole   the switch forwards nothing more from or to the port; nobody is told
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from enum import StrEnum

from bascule.errors import Failed, Refused
from bascule.lab.names import SWITCH, namespace
from bascule.lab.namespaces import Batch, find_program, run_batch

_UNITS = {"kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(kbit|mbit|gbit)")
_SLOWEST_BIT_S = 1_000_000
_FASTEST_BIT_S = 100 * 10**9
# Tried with one TCP stream: 96% of the rate from 100 Mbit/s to 1 Gbit/s, 92% of 10 Gbit/s. The queue behind the
# bucket is what a shallow switch has; a deep one would show a client 100 ms of round trip during every move.
_BURST_S = 0.001
_MIN_BURST_BYTES = 16 * 1024
_QUEUE_MS = 10
_SETTLE_S = 10.0

_DISABLED, _FORWARDING = 0, 3  # port states of linux/if_bridge.h


class Cut(StrEnum):
    """How a link is cut."""

    CARRIER = "carrier"
    BLACK_HOLE = "black-hole"


def parse_rate(text: str) -> int:
    """Return bits per second of "1gbit", "100mbit" or "2.5gbit". Raises `Refused` for anything else."""
    match = _RATE.fullmatch(text.strip().lower())
    rate_bit_s = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if not _SLOWEST_BIT_S <= rate_bit_s <= _FASTEST_BIT_S:
        raise Refused(
            f"{text!r} is no rate for a link",
            "give a number with kbit, mbit or gbit, from 1mbit to 100gbit, as in 1gbit",
        )
    return rate_bit_s


def rate_text(rate_bit_s: int | None) -> str:
    """Return a rate for people."""
    if rate_bit_s is None:
        return "unlimited"
    unit = next((unit for unit in ("gbit", "mbit") if rate_bit_s >= _UNITS[unit]), "kbit")
    return f"{rate_bit_s / _UNITS[unit]:g}{unit}"


def limit_line(device: str, rate_bit_s: int) -> str:
    """Return the line for `tc` that limits what `device` sends to `rate_bit_s`."""
    burst_bytes = max(_MIN_BURST_BYTES, int(rate_bit_s / 8 * _BURST_S))
    return f"qdisc replace dev {device} root tbf rate {rate_bit_s}bit burst {burst_bytes} latency {_QUEUE_MS}ms"


def cut(lab: str, member: str, how: Cut) -> None:
    """Cut the link of `member` at the switch."""
    if how is Cut.CARRIER:
        _on_switch(lab, "ip", f"link set {member} down", f"cut the link of {member}")
    else:
        _on_switch(lab, "bridge", f"link set dev {member} state {_DISABLED}", f"cut the link of {member}")


def heal(lab: str, member: str) -> None:
    """Undo every cut of the link of `member`, and wait until the switch forwards its frames again."""
    purpose = f"heal the link of {member}"
    _on_switch(lab, "ip", f"link set {member} up", purpose)
    give_up = time.monotonic() + _SETTLE_S
    # A port that was down has no carrier for a moment, and the bridge takes no state for it until it has.
    while port_states(lab).get(member) == "carrier cut":
        if time.monotonic() > give_up:
            raise Failed(f"cannot {purpose}: it has no carrier after {_SETTLE_S:g} s")
        time.sleep(0.01)
    _on_switch(lab, "bridge", f"link set dev {member} state {_FORWARDING}", purpose)


def port_states(lab: str) -> dict[str, str]:
    """Return how each member's link is, as the switch sees it: `up`, `carrier cut` or `black hole`."""
    shown = subprocess.run(
        [find_program("ip") or "ip", "-n", namespace(lab, SWITCH), "-json", "-details", "link", "show"],
        capture_output=True,
        text=True,
        check=False,
    )
    states = {}
    for link in json.loads(shown.stdout or "[]") if shown.returncode == 0 else []:
        info = link.get("linkinfo", {})
        if info.get("info_slave_kind") != "bridge":
            continue
        if link.get("operstate") != "UP":
            states[link["ifname"]] = "carrier cut"
        else:
            forwards = info["info_slave_data"]["state"] == "forwarding"
            states[link["ifname"]] = "up" if forwards else "black hole"
    return states


def _on_switch(lab: str, program: str, line: str, purpose: str) -> None:
    run_batch(Batch(program, namespace(lab, SWITCH), (line,), purpose))
