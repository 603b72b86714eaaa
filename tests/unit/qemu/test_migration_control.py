import pytest

from bascule.qemu.migration_control import UNCAPPED_BYTES_PER_S, tcp_uri


@pytest.mark.parametrize(
    ("address", "uri"),
    [
        ("10.77.0.2", "tcp:10.77.0.2:49152"),
        ("fd00::2", "tcp:[fd00::2]:49152"),
        ("h2.example", "tcp:h2.example:49152"),
    ],
)
def test_uris(address: str, uri: str) -> None:
    assert tcp_uri(address, 49152) == uri


def test_uncapped_is_what_libvirt_sends() -> None:
    assert UNCAPPED_BYTES_PER_S == 9223372036853727232
