"""The VM's network on this host, and what a client sees of it.

- `tap`: a tap of our own for each NIC, silent until told; `foreign_tap`: getting it back from a running QEMU
- `vhost`: the kernel's vhost-net, which serves a NIC in QEMU's place
- `receive_queue`: how much of a VM's state may wait unread for its QEMU
- `bridge`: ports, addresses and learned MACs of a bridge
- `frames`, `announcement`: telling the network a VM's new place
- `ear`, `claims`, `address_book`: learning a running guest's addresses from what it says at its tap
- `arrivals`: seeing whether the network brings a VM's frames here, or still elsewhere
- `handover`: the frames that come for a VM while it moves, from one host's tap to the other's
- `netlink`: how the above talk to the kernel about links
- `probe`, `outage`: asking a guest many times a second from outside, and what the answers say

Words: an *announcement* is RARP, gratuitous ARP and unsolicited neighbour advertisement; the *outage* is what a client
sees from outside, the longest silence and the frames lost, duplicated or reordered.
"""
