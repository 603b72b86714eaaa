"""What runs inside the lab's guest: a real Linux with a workload that would notice a bad move.

- `boot.sh`, `inittab`, `workload.sh`, `power-button.sh`: start and stop of the guest
- `workload`: its one program; `settings` reads the kernel command line, `status` says how the guest fares
- `loop`, `sockets`, `echo`, `http`: what clients talk to
- `dirtier`, `pace`: memory that is rewritten and checked, at a rate
- `sequence`, `sequence_record`: numbered records on a disk, which show whether the guest ran twice

The guest has no standard library worth the name, since importing one would take seconds under software emulation:
these modules import only what the interpreter has built in or frozen, a few small ones, and each other. They run on
every Python from 3.10 on, the guest's being the one of the host's distribution.
"""
