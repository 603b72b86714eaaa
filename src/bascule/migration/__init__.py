"""What a move is, and nothing but that: pure code without I/O, clock or event loop.

- `model`: a move, its goals and its outcome
- `facts`: the events that reach the engine; `commands`: what the engine asks its host to do
- `source`, with its `source_states`, and `destination`: the two sides as `step(state, fact, now) -> (state, commands)`
- `recovery`: the state in which a restarted agent continues
- `convergence`: when to switch over; `forecast`: what the move will cost
- `ownership`: who may let the VM's vCPUs run
- `diagram`: the states as a picture, drawn from the code
- `story`: from recorded facts to the report

Words: a *round* is one pass of pre-copy; the *switchover* runs from the VM's stop on the source to its run on the
destination; the *decision* is the one write that moves ownership, after which there is no return.
"""
