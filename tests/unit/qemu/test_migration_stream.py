"""The connection that a VM's state goes through."""

import socket

import pytest

from bascule.errors import Failed
from bascule.qemu.migration_stream import UNSENT_BYTES, open_stream


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "[::1]")])
async def test_little_waits_in_it_and_nothing_is_held_back(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host.strip("[]"), 0), family=family) as listener:
        port = listener.getsockname()[1]
        with await open_stream(f"tcp:{host}:{port}") as stream:
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert stream.getblocking()
            assert stream.getpeername()[1] == port


def sent_now(stream: socket.socket) -> int:
    try:
        return stream.send(bytes(65536))
    except BlockingIOError:
        return 0


async def test_what_is_sent_waits_on_this_side_only_up_to_the_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with await open_stream(f"tcp:127.0.0.1:{listener.getsockname()[1]}") as stream:
            there, _ = listener.accept()
            with there:
                there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                stream.setblocking(False)
                sent = sum(iter(lambda: sent_now(stream), 0))
        # Without a bound Linux with its usual limits takes 3.9 MB before it blocks.
        assert sent < 3 * UNSENT_BYTES


async def test_nobody_listening_is_said_with_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Failed, match=f"127.0.0.1:{port}: .*Connection refused"):
        await open_stream(f"tcp:127.0.0.1:{port}")


@pytest.mark.parametrize("uri", ["unix:/tmp/x", "tcp:", "tcp:host", "tcp::1", "exec:cat"])
async def test_what_is_no_tcp_address_is_a_mistake(uri: str) -> None:
    with pytest.raises(ValueError, match="is no TCP address"):
        await open_stream(uri)
