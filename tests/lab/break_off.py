"""Builds a lab and sends itself a signal before a given step, and once more while it takes the lab down again.

Arguments: name, step's number, signal, stand-in for the agent. With the step -1 it builds the lab to its end, says
so on stdout, and waits for whoever kills it.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from bascule.errors import Refused
from bascule.lab import processes
from bascule.lab.laboratory import Lab

name, step, number, script = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
counter = itertools.count()


def on_step(_step: str) -> None:
    if next(counter) == step:
        os.kill(os.getpid(), number)


def end_under_signals(*arguments: Any, **options: Any) -> Any:
    os.kill(os.getpid(), number)
    return end(*arguments, **options)


end, processes.end = processes.end, end_under_signals
print("go", flush=True)
if step == -1:
    sys.stdin.readline()
try:
    Lab(name).up(
        hosts=2,
        link_bit_s=10**9,
        shared_size_mib=8,
        agent_command=lambda _member, places: [sys.executable, "-I", script, str(places.config)],
        on_step=on_step,
    )
except Refused as error:
    sys.exit(f"refused: {error}")
print("up", flush=True)
if step == -1 and number:
    signal.pause()
