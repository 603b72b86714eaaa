"""Bascule: live migration for plain Linux QEMU/KVM hosts.

Read `migration` for what a move is, `agent` for who performs it, `lab` to watch one on your own machine.
"""

__version__ = "0.1.0"
