from __future__ import annotations

import signal
import threading

import pytest

from bascule.lab.interrupts import endings_raise, interrupts_wait


@pytest.fixture(autouse=True)
def usual():
    """SIGTERM ends a program on the spot, as it does when nobody has said otherwise; the tests as a whole have."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_becomes_an_exit(number):
    with pytest.raises(SystemExit) as caught, endings_raise():
        signal.raise_signal(number)
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_program_with_its_own_idea_of_a_signal_keeps_it():
    seen = []
    signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    try:
        with endings_raise():
            signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_an_interrupt_waits_for_the_end_of_the_body():
    steps = []
    with pytest.raises(KeyboardInterrupt), interrupts_wait():  # noqa: PT012 - what follows the signal is the point
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        steps.append("done")
    assert steps == ["done"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_held_signals_meet_the_handlers_of_outside():
    with pytest.raises(SystemExit), endings_raise(), interrupts_wait():
        signal.raise_signal(signal.SIGTERM)


def test_in_another_thread_nothing_is_touched():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    seen = []

    def body():
        with endings_raise(), interrupts_wait():
            seen.append((signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [before]
