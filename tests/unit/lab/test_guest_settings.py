from __future__ import annotations

import pytest

from bascule.lab.guest.settings import parse
from bascule.lab.guest_options import GuestOptions


def test_what_the_options_say_is_what_the_guest_reads() -> None:
    options = GuestOptions(dirty_mib=256, rate_mb_s=12.5, sequence=True, injection=True)
    settings = parse(options.command_line())
    assert (settings.dirty_mib, settings.rate_mb_s) == (256, 12.5)
    assert settings.sequence
    assert settings.injection


def test_a_guest_that_is_asked_nothing_is_idle() -> None:
    settings = parse("console=ttyS0 quiet")
    assert (settings.dirty_mib, settings.rate_mb_s, settings.sequence, settings.injection) == (0, 0, False, False)


@pytest.mark.parametrize("word", ["bascule.dirty_mib=many", "bascule.rate_mb_s=200MB"])
def test_a_value_that_is_no_number_is_an_error(word: str) -> None:
    with pytest.raises(ValueError, match=r"many|200MB"):
        parse(f"quiet {word}")


def test_each_interface_gets_its_address() -> None:
    options = GuestOptions(addresses=("10.77.0.50/24", "10.88.0.50/16"))
    assert "bascule.ip=10.77.0.50/24,10.88.0.50/16" in options.command_line().split()
