"""What the benches put into the lab's guest beside its own Python services: a real Redis, and a native UDP echo.

The guest's own echo is Python: under software emulation it answers some thousand datagrams a second, and what comes
faster than that finds its socket full, moved or not. The kernel and this one answer ten thousand.
"""

from __future__ import annotations

from typing import Final

from harness.program_image import Program

REDIS_PORT: Final = 6379
NATIVE_ECHO_PORT: Final = 7007  # Python's services have the one that echo has everywhere
_ROOM_BYTES: Final = 64 << 20  # 27,000 datagrams: an emulated guest falls behind by more than a second in some moves

REDIS: Final = Program(
    title="Redis",
    packages=("redis-tools", "redis-server"),  # Debian keeps the one binary in the first
    binary="usr/bin/redis-server",
    alternatives=("usr/bin/redis-check-rdb", "usr/bin/redis-check-aof"),
    start=(
        f"/usr/bin/redis-server --port {REDIS_PORT} --bind 0.0.0.0 --protected-mode no --save '' --appendonly no "
        "--maxmemory-policy noeviction --daemonize no >/dev/console 2>&1 &"
    ),
)

# GNU inetd answers by itself, with one recvfrom and one sendto, whatever port the question came from.
NATIVE_ECHO: Final = Program(
    title="a native UDP echo",
    packages=("inetutils-inetd",),
    binary="usr/sbin/inetutils-inetd",
    files={
        "etc/services": f"echo {NATIVE_ECHO_PORT}/udp\n",
        "etc/protocols": "udp 17 UDP\n",
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "etc/group": "root:x:0:\n",
        "etc/echo.conf": "echo dgram udp wait root internal\n",
    },
    start=(
        # Its socket takes the size that is the default when it is made; TCP's has its own.
        f"echo {_ROOM_BYTES} >/proc/sys/net/core/rmem_default; /usr/sbin/inetutils-inetd /etc/echo.conf"
    ),
)
