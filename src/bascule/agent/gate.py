"""The gate: the one function in Bascule that lets vCPUs run.

Everything that starts or resumes a VM, on its owner as on a destination, comes through here, and here alone is QEMU's
`cont` called. (QEMU resumes a source by itself when the copy fails before it is complete; that is why a destination
never runs before the decision.)
"""

from __future__ import annotations

from bascule.errors import Refused
from bascule.journal.journal import Journal
from bascule.migration.ownership import why_not_run
from bascule.qemu.machine import QemuMachine


async def let_run(journal: Journal, host: str, vm_uuid: str, machine: QemuMachine) -> None:
    """Let the VM's vCPUs run on this host if its journal says that the VM belongs here and nothing is open.

    Raises Refused with the reason if it does not, and QEMU's error if it cannot.
    """
    record = await journal.vm_by_uuid(vm_uuid)
    reason = why_not_run(record.ownership if record else None, host)
    if reason is not None:
        name = record.name if record else vm_uuid
        raise Refused(f"cannot run vm {name} on host {host}: {reason}", "look at its last move: bascule moves")
    await machine.let_vcpus_run()
