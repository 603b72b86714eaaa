#!/bin/sh
# Starts the workload. It is not started again: a workload that died has lost what it knew about the memory.

# `rep movsb`, which glibc prefers where the processor has it, is four times slower than a loop under TCG.
export GLIBC_TUNABLES=glibc.cpu.hwcaps=-ERMS
# Else Python waits for the kernel to gather randomness, a second without a hardware source.
export PYTHONHASHSEED=0
export PYTHONHOME=/usr
export PYTHONPATH=/usr/lib/bascule
exec python3 -S -c 'from bascule.lab.guest.workload import main; main()'
