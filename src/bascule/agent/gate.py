"""The gate: the one function in Bascule that lets vCPUs run.

Everything that starts or resumes a VM, on its owner as on a destination, comes through here, and here alone is QEMU's
`cont` called. (QEMU resumes a source by itself when the copy fails before it is complete; that is why a destination
never runs before the decision.)
"""

from __future__ import annotations

from bascule.agent.host import Host
from bascule.errors import Refused
from bascule.migration.ownership import why_not_run
from bascule.qemu.machine import QemuMachine
from bascule.qemu.qmp import QmpError


async def let_run(host: Host, vm_uuid: str, machine: QemuMachine) -> None:
    """Let the VM's vCPUs run on this host if its journal says that the VM belongs here and nothing is open.

    Raises Refused with the reason if it does not, and QEMU's error if it cannot. After Refused and QmpError it is
    certain that nothing ran; after any other error it is not.
    """
    record = await host.journal.vm_by_uuid(vm_uuid)
    reason = why_not_run(record.ownership if record else None, host.name)
    if record is None or reason is not None:
        name = record.name if record else vm_uuid
        raise Refused(f"cannot run vm {name} on host {host.name}: {reason}", "look at its last move: bascule moves")
    first = host.run_marks.set(vm_uuid, record.epoch)
    try:
        await machine.let_vcpus_run()
    except QmpError:
        if first:
            host.run_marks.unset(vm_uuid, record.epoch)
        raise
