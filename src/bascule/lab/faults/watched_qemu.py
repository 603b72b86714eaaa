"""A QEMU with a second monitor, for whoever watches it from outside while the agent holds the first.

The lab's agents run it in place of their QEMU: a script that adds one monitor to a VM and becomes QEMU. Its socket lies
beside the agent's own in the VM's folder, so that it comes and goes with it. Nothing of the product knows of it. QEMU
waits at it for whoever watches, as it does for its agent and for the same reason (`qemu.command_line.monitor`).
"""

from __future__ import annotations

from pathlib import Path

from bascule.lab.newer_qemu import lab_qemu

SOCKET = "watch.sock"
_SCRIPT = """#!/bin/sh
# QEMU with a second monitor in a VM's folder, where its pid file is; for anything else, as it is.
previous=
for word; do
    if [ "$previous" = -pidfile ]; then
        folder=${{word%/*}}
        case $folder in */vms/*)
            exec {qemu} "$@" -mon chardev=watch,mode=control \\
                -chardev "socket,id=watch,path=$folder/{socket},server=on,wait=on" ;;
        esac
    fi
    previous=$word
done
exec {qemu} "$@"
"""


def watched_qemu(cache: Path) -> str:
    """Return the path of the script, written to `cache` unless it is there.

    Always the same one, since what agents have learnt of a QEMU they remember by its path.
    """
    script = cache / "watched-qemu"
    text = _SCRIPT.format(qemu=lab_qemu(cache), socket=SOCKET)
    if not script.exists() or script.read_text() != text:
        cache.mkdir(parents=True, exist_ok=True)
        fresh = script.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.rename(script)
    return str(script)
