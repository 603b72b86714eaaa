"""Real faults in a lab: processes killed and frozen, links cut, in every phase of a move, and what is left afterwards.

- `case`: a case as a value and as a line of text, so that it can be repeated
- `schedule`: cases by a seed: each fault in each phase on each side, and several at random
- `follow`: the phase of a move, as its source tells it, and the wait for one
- `injection`: doing a fault to the lab, and undoing it
- `watched_qemu`, `qemu_watch`: every QEMU's run state from outside, with QEMU's own times
- `network_watch`: the numbered records that the guest sends; `inside`: doing something inside a namespace
- `urgency`: threads that must not come late
- `ground`: the lab and the guest on which case after case is run; `settling`: the wait for the end of it all
- `evidence`, `verdict`, `leftovers`: what was seen of one case, and what it proves

Words: a *case* is one move and the faults that meet it. Its *verdict* is a list of findings, each of one kind:
`doubled` (two copies ran at once), `lost` (none runs, though one could), `corrupted` (memory, disk or boot),
`leftovers` (something stayed behind), `untrue` (an exit status, a report or a journal says what is not so), `stuck` (a
move that does not settle, or a next move that fails). *unknown* is no finding: it is what a command may say while a
host is away.
"""
