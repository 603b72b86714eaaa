"""The kernel command line that makes the lab's guest do what is wanted."""

from __future__ import annotations

from dataclasses import dataclass

# What makes a software-emulated guest faster or quieter, and is not missed in a lab.
_ALWAYS = (
    "console=ttyS0",
    "quiet",
    # A busy host makes the kernel doubt its clock, and take one that is a hundred times slower.
    "tsc=reliable",
    "nowatchdog",
    # Protections and fast paths of the hardware that cost more than they give under emulation: together with the
    # transmit interrupts, a sixth of what a small packet costs.
    "mitigations=off",
    "clearcpuid=erms,fsrm,smap,smep,umip,pku",
    "init_on_alloc=0",
    "hardened_usercopy=off",
    "randomize_kstack_offset=off",
    "lsm=",
    "audit=0",
    "preempt=none",
    "virtio_net.napi_tx=0",
)


@dataclass(frozen=True, slots=True)
class GuestOptions:
    """What the guest is to do.

    `addresses` are those of eth0, eth1, ... with their prefix length; several of one NIC, IPv4 or IPv6, are joined by
    `+`. `dirty_mib` of incompressible memory are rewritten at `rate_mb_s` (1 MB is 1,000,000 bytes; at 0 they are
    filled once and left). `sequence` appends numbered records to the first virtio disk, whose content is lost, and
    sends others to the network.
    `injection` lets clients damage the memory, to prove that the guest notices.
    """

    addresses: tuple[str, ...] = ("10.77.0.50/24",)
    dirty_mib: int = 0
    rate_mb_s: float = 0
    sequence: bool = False
    injection: bool = False

    def command_line(self) -> str:
        """The kernel command line."""
        words = [
            *_ALWAYS,
            f"bascule.ip={','.join(self.addresses)}",
            f"bascule.dirty_mib={self.dirty_mib}",
            f"bascule.rate_mb_s={self.rate_mb_s:g}",
        ]
        if self.sequence:
            words.append("bascule.sequence=1")
        if self.injection:
            words.append("bascule.injection=1")
        return " ".join(words)
