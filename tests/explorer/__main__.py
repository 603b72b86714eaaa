"""The explorer: breadth first through every interleaving of two hosts around the real engine.

    python -m tests.explorer --faults 2 --moves 2 --seconds 600

prints for each mode what was searched, how many worlds and steps, how deep, whether that is all there is, and how many
rules were broken, with the story of one. It exits 1 if there was any.

What is real: both engines (`migration.source`, `migration.destination`), how a restarted agent goes on
(`migration.recovery`, `source_confirming.released`), the gate's rule, the register's `settle`. What is a model: QEMU,
the network, the journal's custody of ownership, and the two shells that perform the engine's commands (`shell_source`,
`shell_destination`, `lives`, `questions`, as `bascule.agent` does it). A command that leaves something half done when
its agent dies falls into parts, so that agents die between any two durable writes.

What may go wrong, each at the price of one fault: a host loses power, its agent or its QEMU is killed, a copy breaks,
a write fails or is made and told as failed, QEMU says no until further notice, what came of a command is not heard, a
disk is full, a name is taken, a message is lost, comes twice, or comes when nobody waits for it any more. Delays and
the order of messages cost nothing. Besides, a user may cancel, and an operator decide or start the VM.

Where it deviates from the shells, knowingly:

- A hang is a QEMU or an agent that is slow: it does not answer in time, and what it was asked happens or does not. A
  frozen process that is killed later is one that is killed.
- QEMU's events reach its agent at once, or, where that was dead or deaf, when it looks again.
- Time has two lengths: till the next try, and longer than any patience. A question is not older than the destination's
  six tries, which take longer than the asker waits.
- The mark of an operator's start in vain is never taken back. The shell does so where QEMU itself said no, and tells
  nobody that the VM has ended while a start is under way.
- An agent that stands down kills its QEMU and hears of that before anything else.
- Nothing is forgotten: refusals and old moves stay in the journal.
- One VM and two hosts. The steering, the announcements and the pictures do not exist.

What is known to be open, and forgiven: the copy breaks or is ended at the last moment, with everything loaded on the
destination; the source's QEMU lets the VM run on, and its host loses power before its agent has written that it
withdraws (for want of milliseconds, or because it was dead). Nobody is left who knows that the VM ran on, and the
destination goes on with what it has.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.explorer.core import Core
from tests.explorer.mutants import MUTANTS
from tests.explorer.search import ends, search
from tests.explorer.steps import Steps
from tests.explorer.world import Budget

from bascule.migration.model import Mode


def main(argv: list[str] | None = None) -> int:
    """Search as asked for, and return 1 if a rule was broken."""
    asked = _parsed(argv)
    modes = list(Mode) if asked.mode == "both" else [Mode(asked.mode)]
    budget = Budget(asked.faults, asked.cancels, asked.operators)
    violations = 0
    for mode in modes:
        core = MUTANTS[asked.mutant].core() if asked.mutant else Core()
        steps = Steps(core, mode, most_moves=asked.moves)
        began_s = time.monotonic()
        until_s = began_s + asked.seconds / len(modes) if asked.seconds else None
        found = search(
            steps,
            steps.space.first(mode, budget, earlier=asked.earlier),
            most_worlds=asked.worlds,
            over=lambda until_s=until_s: until_s is not None and time.monotonic() > until_s,
        )
        bad_ends = ends(steps, found, asked.ends, asked.seed)
        violations += len(found.stories) + len(bad_ends)
        print(
            f"mode={mode} faults={budget.faults} cancels={budget.cancels} operators={budget.operators} "
            f"moves={asked.moves} worlds={len(found.worlds)} steps={found.steps} depth={found.depth} "
            f"complete={'yes' if found.complete else 'no'} ends={min(asked.ends, len(found.worlds))} "
            f"violations={len(found.stories) + len(bad_ends)} seconds={time.monotonic() - began_s:.1f}",
            flush=True,
        )
        for story in (*found.stories, *sorted(bad_ends, key=len)[:1]):
            print(story, flush=True)
    return 1 if violations else 0


def _parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.explorer", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mode", choices=[*Mode, "both"], default="both", help="how the VM is moved")
    parser.add_argument("--faults", type=int, default=1, help="how many things may go wrong (1)")
    parser.add_argument("--cancels", type=int, default=0, help="how often the user may cancel (0)")
    parser.add_argument("--operators", type=int, default=0, help="how often an operator may decide or start the VM (0)")
    parser.add_argument("--moves", type=int, default=1, help="how often the VM may be moved: on, back or again (1)")
    parser.add_argument("--earlier", action="store_true", help="the VM came to its host by a migration")
    parser.add_argument("--worlds", type=int, default=None, metavar="N", help="stop at N worlds")
    parser.add_argument("--seconds", type=float, default=None, metavar="N", help="stop after N seconds in all")
    parser.add_argument("--ends", type=int, default=2000, metavar="N", help="leave N of the worlds in peace (2000)")
    parser.add_argument("--seed", type=int, default=0, help="which of them, and in which order they come to rest")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), default=None, help="search with a seeded bug")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
