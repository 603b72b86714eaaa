"""Who may let a VM's vCPUs run: the rule that the one gate checks.

Every VM has an owner and an epoch. A move from A (owner at epoch n) to B proposes epoch n+1, and a *decision register*
holds for (VM, n+1) one value that is written once: `taken` or `refused`. Between two plain hosts the register is B's
journal.

- A writes its offer durably before the copy starts. While an offer stands, A's vCPUs are QEMU's affair only: they run
  until QEMU stops them for the switchover, and run again by QEMU itself if the copy fails.
- A lets a stopped VM run again only once the offer is settled: the register holds `refused`, or A has written durably
  that it withdraws an offer whose state was never completely sent, and so will never ask B to take it.
- A withdrawn or refused offer uses its epoch up: A owns the VM at epoch n+1 then, and its next move proposes n+2.
- An operator's word in an unsettled move gives the VM to a host at an epoch far later than the move's
  (`BY_WORD_EPOCHS`): later than any that the silent host may have used up meanwhile with moves of its own.
- B lets the VM run only once it has written `taken`, and it writes `taken` only on A's word that A's copy was sent
  completely (QEMU: `completed`) or is dead.
"""

from __future__ import annotations

from dataclasses import dataclass

BY_WORD_EPOCHS = 1000


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer of a VM to another host that is not settled yet."""

    to: str
    epoch: int
    move_id: str


@dataclass(frozen=True, slots=True)
class Ownership:
    """What one host's journal says of a VM. `owner` is a host's name."""

    vm_uuid: str
    owner: str
    epoch: int
    offer: Offer | None = None


def why_not_run(ownership: Ownership | None, host: str) -> str | None:
    """Say why `host` must not let this VM's vCPUs run, or None if it may."""
    if ownership is None:
        return f"host {host} has no record of owning it"
    if ownership.owner != host:
        return f"it belongs to host {ownership.owner} since epoch {ownership.epoch}"
    if ownership.offer is not None:
        offer = ownership.offer
        return f"it is offered to host {offer.to} (move {offer.move_id}, epoch {offer.epoch}) and that is not settled"
    return None
