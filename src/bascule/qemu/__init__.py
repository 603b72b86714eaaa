"""One QEMU process, and everything that is said to it.

- `command_line`: a VM's definition turned into QEMU's arguments (pure)
- `user`, `process_record`, `process`: who QEMU runs as; which process it is, reused pids excluded; its start,
  exit and kill; it outlives the agent
- `qmp`: the session on QEMU's monitor; every command has a deadline, events keep QEMU's own timestamps
- `machine`: a process and its session together; the class that the agent holds for each VM
- `qmp_schema`, `capabilities`, `capability_probe`: what this host's QEMU and CPU can do, asked and never guessed
- `throwaway`: the QEMUs of these questions and proofs that an agent which died has left
- `kvm_proof`, `accelerator`: KVM is used only after a 64-bit Linux kernel was seen running under it
- `migration_stats`, `migration_control`: QEMU's part of a move: parameters, start, progress, cancel, end
- `migration_stream`: the connection that the state goes through, with little waiting in it

Words: the *source* QEMU sends, the *destination* QEMU (started with `-incoming defer`) loads; vCPUs *run* or are
*stopped*; QEMU's run state (`running`, `paused`, `inmigrate`, ...) is not the migration's status (`active`, ...).
Nothing in here decides whether a VM may run: `QemuMachine.let_vcpus_run` is called by the agent's gate alone.
"""
