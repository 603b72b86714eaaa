"""The daemon of a host: it performs the engine's commands, feeds it facts, and recovers after a restart.

- `config`, `daemon`: its settings, its start and its end
- `host`: what the parts share; `machines`: the VMs that run here; `gate`: the one place that lets vCPUs run
- `preflight`: what both sides check before anything changes
- `source_move`, `destination_move`: the two sides of a move, each a shell around the pure engine
- `frames_out`, `frames_in`, `frames_desk`: the frames that come for a VM while it moves; beside the move
- `switchover_line`, `urgency`: what makes a switchover short
- `moves`: the moves of this host: begin, watch, cancel, recover
- `peers`: the other agents; `clock`: how far apart two hosts' clocks are
- `operator_api` (unix socket), `peer_api` (TCP): the HTTP API
"""
