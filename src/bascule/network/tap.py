"""One tap: the network card's cable between a VM and its bridge, opened by the agent and passed to QEMU.

The agent keeps its own descriptors beside QEMU's: through them, it can speak as if the guest had spoken, and read what
was queued for a VM that no longer runs. A tap is never persistent: it vanishes with the last descriptor, so that no
crash leaves one behind. It is silent: until somebody calls `inject` or QEMU runs its guest, not one frame comes out.

A tap has one queue, or several for as many vCPUs of the guest. From QEMU's start until it has loaded what the guest's
driver has set up, only the first is in use: QEMU takes the others off, and what waits in them is gone.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import io
import os
import struct
from base64 import b32encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2s
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from bascule.errors import Failed, Refused
from bascule.network.bridge import bridge_link
from bascule.network.foreign_tap import copy_tap_descriptors, tap_holders
from bascule.network.netlink import NetlinkError, netlink_batch

# linux/if_tun.h
TUNSETIFF = 0x400454CA
TUNGETIFF = 0x800454D2
TUNGETVNETHDRSZ = 0x800454D7
TUNSETQUEUE = 0x400454D9
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_ATTACH_QUEUE = 0x0200
IFF_DETACH_QUEUE = 0x0400
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_TUN_EXCL = 0x8000  # without it, opening a name that exists would join that tap
INTERFACE_NAME_BYTES = 15

ADDR_GEN_MODE_NONE = 1  # linux/if_link.h, IN6_ADDR_GEN_MODE_NONE
# Chosen when the tap is made, and not changed: while the kernel changes it, what comes is dropped, for up to a
# millisecond. The kernel's own 1,000 are a tenth of a second of 10,000 frames a second; a QEMU that does not read for
# longer than that would lose some.
DEFAULT_QUEUE_FRAMES = 4000
LONGEST_QUEUE_FRAMES = 16_000  # eight bytes each while it is empty
LARGEST_READ_BYTES = 1 << 17  # one frame, as large as segmentation offload makes it, and its header
VLAN_TAG_BYTES = 4
VIRTIO_HEADER_BYTES = 10  # linux/virtio_net.h, struct virtio_net_hdr; a tap may put more behind it, which says nothing
_LONGEST_HEADER_BYTES = 64
_NO_MORE_HEADER = bytes(_LONGEST_HEADER_BYTES - VIRTIO_HEADER_BYTES)


_IFREQ_FLAGS = struct.Struct("16sH22x")  # linux/if.h, struct ifreq: name, flags
_LONGEST_MTU_BYTES = 65_521  # of a tap


class QueuedFrame(NamedTuple):
    """A frame on its way to the guest: the first 10 bytes of its virtio header, and the Ethernet frame."""

    header: bytes
    frame: bytes


def _mtu(bridge_bytes: int) -> int:
    """A tap takes two tags more than its bridge's frames: else we could not put a full one of a trunk back into it."""
    return min(bridge_bytes + 2 * VLAN_TAG_BYTES, _LONGEST_MTU_BYTES)


def _cut(read: bytes, before: int, after: int) -> QueuedFrame:
    """What was read of a tap whose header had one length before and may have another after it.

    What is longer than `VIRTIO_HEADER_BYTES` is zeros, or was left alone, and it held zeros. No frame for a guest
    begins with two of them: that would be a MAC of the range 00:00:00 to 00:00:ff, of the first vendor of all (Xerox).
    """
    shorter, longer = sorted((before, after))
    return QueuedFrame(read[:VIRTIO_HEADER_BYTES], read[shorter if any(read[shorter:longer]) else longer :])


def tap_name(vm_uuid: str, nic: int) -> str:
    """The name of the tap of a VM's NIC number `nic` (0 to 99): the same on every host, and told apart by a hash."""
    digest = b32encode(blake2s(vm_uuid.lower().encode(), digest_size=5).digest()).decode().lower()
    return f"bsc{digest}n{nic}"


class Tap:
    """A tap in the network namespace of the thread that opened it. Close it when the VM is gone from this host."""

    def __init__(self, name: str, queues: Sequence[io.FileIO]) -> None:
        self.name = name
        self._queues = tuple(queues)

    @classmethod
    def open(cls, name: str, bridge: str, *, queue_frames: int = DEFAULT_QUEUE_FRAMES, queues: int = 1) -> Self:
        """Create the tap `name`, join it to `bridge` and set it up. It blocks: call it in a thread, or see `open_taps`.

        `queue_frames` is how many frames wait in each of its queues for a guest that does not run. Raises `Refused`,
        with nothing left behind, when the bridge is missing, the name taken, or taps not available here.
        """
        attempt = f"cannot open tap {name} on bridge {bridge}"
        if not 0 < len(name.encode()) <= INTERFACE_NAME_BYTES:
            raise Refused(f"{attempt}: its name must have 1 to {INTERFACE_NAME_BYTES} bytes")
        with netlink_batch() as netlink:
            target = bridge_link(netlink, bridge)
            tap = cls(name, _create(name, queues, attempt))
            try:
                index = netlink.link("get", ifname=name)[0]["index"]
                no_addresses = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", ADDR_GEN_MODE_NONE)]})]}
                # A bridge takes on the lowest MAC and the lowest MTU of its ports: ours must be neither.
                netlink.link(
                    "set",
                    index=index,
                    address=_high_mac(name),
                    mtu=_mtu(target.get("mtu")),
                    txqlen=queue_frames,
                    af_spec=no_addresses,
                )
                # The host itself has nothing to say to the guest by this cable. Where IPv6 is not built in, or /proc is
                # read-only, having no address suffices.
                with suppress(OSError):
                    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
                netlink.link("set", index=index, master=target["index"])
                netlink.link("set", index=index, state="up")
            except NetlinkError as error:
                tap.close()
                raise Refused(f"{attempt}: {os.strerror(error.code)}") from error
            except BaseException:
                tap.close()
                raise
        return tap

    @classmethod
    def from_process(cls, pid: int, name: str) -> Self:
        """The tap `name` of the running QEMU `pid`, for an agent that has restarted.

        Raises `Failed` when the process is gone or has no such tap open.
        """
        tap = cls(name, [io.FileIO(descriptor, "r+b") for descriptor in copy_tap_descriptors(pid, name)])
        if tap._interface() != name:
            tap.close()
            raise Failed(f"cannot take over tap {name} of process {pid}: the process has closed it meanwhile")
        return tap

    def _interface(self) -> str | None:
        try:
            answer = fcntl.ioctl(self._queues[0], TUNGETIFF, bytes(40))
        except OSError:  # no tap at all
            return None
        return answer[:16].rstrip(b"\0").decode()

    def fileno(self) -> int:
        """The descriptor of its first queue, which a guest always uses."""
        return self._queues[0].fileno()

    def descriptors(self) -> tuple[int, ...]:
        """The descriptor of each queue, to pass to QEMU, which inherits copies of them."""
        return tuple(queue.fileno() for queue in self._queues)

    def header_bytes(self) -> int:
        """The length of the virtio header before each frame, now: it changes when the guest's driver negotiates."""
        length: int = struct.unpack("i", fcntl.ioctl(self._queues[0], TUNGETVNETHDRSZ, bytes(4)))[0]
        return length

    @contextmanager
    def first_queue_only(self) -> Iterator[None]:
        """What comes meanwhile goes to the first queue, whichever the kernel would have chosen; before QEMU starts."""
        others = self._queues[1:]
        try:
            for queue in others:
                fcntl.ioctl(queue, TUNSETQUEUE, _IFREQ_FLAGS.pack(b"", IFF_DETACH_QUEUE))
            yield
        finally:
            for queue in others:  # they get their numbers back, by the order in which they come
                with suppress(OSError):  # it was not taken off
                    fcntl.ioctl(queue, TUNSETQUEUE, _IFREQ_FLAGS.pack(b"", IFF_ATTACH_QUEUE))

    def inject(self, frame: bytes, queue: int = 0) -> None:
        """Send `frame` (Ethernet, without header or checksum) to the bridge as if the guest had sent it by a queue.

        What comes of the same flow then goes to that queue. Raises `Failed` when the kernel does not take it.
        """
        length = self.header_bytes()
        while True:
            try:
                taken = self._queues[queue].write(bytes(length) + frame)
            except OSError as error:
                reason = "it is down" if error.errno == errno.EIO else error.strerror
                raise Failed(f"cannot send a frame through tap {self.name}: {reason}") from error
            if taken is None:
                raise Failed(f"cannot send a frame through tap {self.name}: it takes none now")
            before, length = length, self.header_bytes()
            if length == before:
                return
            # QEMU has set another length between our question and our frame, which was then cut wrongly: once more.

    def take_queued(self, limit: int = LONGEST_QUEUE_FRAMES) -> list[QueuedFrame]:
        """Take up to `limit` frames that wait for the guest, of each queue in turn. It never blocks.

        Frames go to one reader each: only for a tap whose VM does not run. QEMU may set another length of the header
        meanwhile: it does when it loads the state of a guest whose driver has negotiated.
        """
        frames: list[bytes] = []
        view = memoryview(bytearray(LARGEST_READ_BYTES))
        before = self.header_bytes()
        for queue in self._queues:
            while len(frames) < limit:
                view[VIRTIO_HEADER_BYTES:_LONGEST_HEADER_BYTES] = _NO_MORE_HEADER
                if (size := queue.readinto(view)) is None:
                    break
                frames.append(bytes(view[:size]))
        after = self.header_bytes()  # asking takes a lock of the whole kernel's, so it is not done for each
        return [_cut(frame, before, after) for frame in frames]

    @property
    def closed(self) -> bool:
        """Whether the agent's descriptors are closed. QEMU's live as long as QEMU."""
        return self._queues[0].closed

    def close(self) -> None:
        """Close the agent's descriptors; the tap vanishes when QEMU's are closed too.

        The last one to close waits for the kernel to take the tap down, about 20 ms: close in a thread.
        """
        for queue in self._queues:
            queue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def open_taps(
    wanted: Sequence[tuple[str, str, int]],
    *,
    queue_frames: int = DEFAULT_QUEUE_FRAMES,
    prepare: Callable[[Sequence[Tap]], None] | None = None,
) -> list[Tap]:
    """Open a tap for each (name, bridge, queues), and `prepare` them, in a thread: all or none. Raises as both do.

    Cancelled, it leaves none behind.
    """
    opening = asyncio.get_running_loop().run_in_executor(None, _open_all, wanted, queue_frames, prepare)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise


def _open_all(
    wanted: Sequence[tuple[str, str, int]], queue_frames: int, prepare: Callable[[Sequence[Tap]], None] | None
) -> list[Tap]:
    taps: list[Tap] = []
    try:
        for name, bridge, queues in wanted:
            taps.append(Tap.open(name, bridge, queue_frames=queue_frames, queues=queues))
        if prepare is not None:
            prepare(taps)
    except BaseException:
        for tap in taps:
            tap.close()
        raise
    return taps


def _close_unwanted(opening: asyncio.Future[list[Tap]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        for tap in opening.result():
            tap.close()


def _create(name: str, queues: int, attempt: str) -> list[io.FileIO]:
    kind = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (IFF_MULTI_QUEUE if queues > 1 else 0)
    opened: list[io.FileIO] = []
    try:
        opened.extend(_open_device(attempt) for _ in range(queues))
        opened.sort(key=lambda device: device.fileno())  # by which a restarted agent tells them
        for number, device in enumerate(opened):
            flags = kind if number else kind | IFF_TUN_EXCL
            fcntl.ioctl(device, TUNSETIFF, _IFREQ_FLAGS.pack(name.encode(), flags))
    except BaseException as error:
        for device in opened:
            device.close()
        if not isinstance(error, OSError):
            raise
        raise _not_created(name, attempt, error) from error
    return opened


def _open_device(attempt: str) -> io.FileIO:
    try:
        # Not blocking, as QEMU sets it anyway: the descriptors share that flag.
        return io.FileIO("/dev/net/tun", "r+b", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise Refused(
                f"{attempt}: this kernel has no /dev/net/tun",
                "load it (modprobe tun), or in a container pass the device in",
            ) from error
        raise Refused(f"{attempt}: /dev/net/tun: {error.strerror}", "run the agent as root") from error


def _not_created(name: str, attempt: str, error: OSError) -> Refused:
    if error.errno == errno.EPERM:
        return Refused(f"{attempt}: not permitted", "the agent needs root, or CAP_NET_ADMIN")
    if error.errno == errno.EBUSY:
        holders = " and ".join(f"process {pid} ({command})" for pid, command in tap_holders(name))
        return Refused(
            f"{attempt}: a network device of that name exists" + (f", in use by {holders}" if holders else ""),
            "does the VM run here already?" if holders else f"if nothing uses it: ip link delete {name}",
        )
    return Refused(f"{attempt}: {error.strerror}")


def _high_mac(name: str) -> str:
    """A stable MAC for the tap itself, higher than any that a network card has, and no VM's."""
    return "fe:" + blake2s(name.encode(), digest_size=5).digest().hex(":")
