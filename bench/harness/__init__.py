"""What the benches share: a lab, a guest under somebody's care, clients that talk to it, and the sums.

- `workloads`: what the guest and its clients do meanwhile
- `carers`: who holds the guest and moves it: `BasculeGuest` here, `qmp_guest.QmpGuest`, `libvirt_guest.LibvirtGuest`
- `policies`, `controllers`: the settings of other tools, read from `policies.toml`, and the rules by which they steer
- `clients`: probes and load generators beside the moves; `redis_load` is a program of its own, bulk TCP a probe
- `vcpu_time`: what a vCPU did from one moment to another, by Linux's accounting
- `program_image`: the lab's guest with more of the distribution's programs; `programs`: Redis, and a native UDP echo
- `figures`: medians and the like, and the machine in one line
- `peers_page`, `peers_picture`: the comparison as a page and as a picture

Words: a *carer* holds the guest and moves it; a *row* is one way to move it, with all its settings; a *window* is the
time of one move with some margin, in which the clients are asked what they felt.
"""
