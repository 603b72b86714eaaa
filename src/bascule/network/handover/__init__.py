"""The frames that come for a VM while it moves: none lost, none twice, in order as far as can be.

- `watch`: seeing, from the network's side, every frame that goes to a tap, and putting frames in
- `counters`, `reckoning`: which of them the guest has got when its VM has stopped
- `leaving`, `arriving`: the two sides of one tap's hand-over
- `parcel`: frames as they travel between the agents

Words: a frame is *carried* from the source's tap to the destination's, *waits* in the destination's tap for the VM, is
*found back* when QEMU had taken it out of the tap and not given it to its guest. The whole is told in docs/handover.md.
"""
