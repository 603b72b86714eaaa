"""Which frames the guest has got, from three counts of one stream: checked against a tap and a QEMU that are told."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from bascule.network.handover.reckoning import ONE_BUFFER_BYTES, USED_MODULUS, Reckoning, fills_one_buffer

MAC = bytes.fromhex("525400770032")


@dataclass
class Story:
    """A tap, the QEMU that reads it, and its guest. `first`: how the counters stood before anybody looked."""

    read: int
    used: int
    reckoning: Reckoning = field(default_factory=Reckoning)
    waiting: int = 0

    def comes(self, frames: int) -> None:
        for _ in range(frames):
            self.reckoning.came(one_buffer=True)
        self.waiting += frames

    def delivers(self, frames: int) -> None:
        frames = min(frames, self.waiting)
        self.waiting -= frames
        self.read += frames
        self.used += frames

    def swallows(self, frames: int) -> None:
        frames = min(frames, self.waiting)
        self.waiting -= frames
        self.read += frames

    def sample(self, meanwhile: int) -> None:
        """Ask for the used index while `meanwhile` more frames are delivered, some before it and some after."""
        before = self.read
        self.delivers(meanwhile // 2)
        used = self.used % USED_MODULUS
        self.delivers(meanwhile - meanwhile // 2)
        self.reckoning.used_between(before, used, self.read)

    def look(self) -> None:
        if not self.waiting:
            self.reckoning.nothing_waits(self.read)


steps = st.lists(st.tuples(st.sampled_from(["comes", "delivers", "sample", "look"]), st.integers(0, 5)), max_size=40)


@given(st.integers(0, 10**7), st.integers(0, 10**7), steps, st.integers(0, 6), st.integers(0, 2))
def test_what_the_guest_got_is_told_or_not_known(
    read: int, used: int, happened: list[tuple[str, int]], backlog: int, swallowed: int
):
    story = Story(read, used)
    for what, count in happened:
        if what == "look":
            story.look()
        else:
            getattr(story, what)(count)
    story.comes(backlog)
    got = story.reckoning.seen - story.waiting
    story.swallows(swallowed)
    assert story.reckoning.delivered_up_to(story.used % USED_MODULUS) in (got, None)
    if story.reckoning.ahead is not None:
        assert story.reckoning.read_up_to(story.read) == story.reckoning.seen - story.waiting


def test_quiet_moments_settle_it():
    story = Story(12345, 65530)
    story.look()
    for _ in range(20):
        story.comes(1)
        story.delivers(1)
        story.sample(0)
    story.comes(3)
    story.swallows(2)
    assert story.reckoning.delivered_up_to(story.used % USED_MODULUS) == 20
    assert story.reckoning.read_up_to(story.read) == 22


def test_busy_moments_settle_it_together():
    """No sample alone is certain, since frames are delivered during each."""
    reckoning = Reckoning()
    reckoning.nothing_waits(0)
    reckoning.used_between(10, 112, 14)
    assert reckoning.delivered_up_to(112) is None
    reckoning.used_between(20, 118, 23)
    assert reckoning.delivered_up_to(118) == 20


def test_a_frame_in_two_buffers_spoils_what_was_known_before():
    story = Story(0, 0)
    story.look()
    story.comes(4)
    story.delivers(4)
    story.sample(0)
    story.reckoning.came(one_buffer=False)
    story.reckoning.forget_used()
    story.read, story.used = 5, 6
    assert story.reckoning.delivered_up_to(6) is None
    story.sample(0)
    assert story.reckoning.delivered_up_to(6) == 5


def test_contradictory_samples_begin_anew():
    reckoning = Reckoning()
    reckoning.nothing_waits(0)
    reckoning.used_between(5, 5, 5)
    reckoning.used_between(9, 11, 9)
    assert reckoning.delivered_up_to(12) == 10


def test_which_frames_fill_one_buffer():
    assert fills_one_buffer(MAC + bytes(50), MAC)
    assert fills_one_buffer(b"\xff" * 6 + bytes(50), MAC)
    assert not fills_one_buffer(bytes.fromhex("3333ff000001") + bytes(50), MAC)
    assert not fills_one_buffer(bytes.fromhex("525400770033") + bytes(50), MAC)
    assert not fills_one_buffer(MAC + bytes(ONE_BUFFER_BYTES), MAC)
