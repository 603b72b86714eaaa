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

    def sample(self, in_hand: int) -> None:
        """Ask for the used index; at times while QEMU has read a frame that it has not given to the guest yet."""
        held = min(in_hand % 2, self.waiting)
        self.reckoning.used_at(self.read + held, self.used % USED_MODULUS)

    def look(self) -> None:
        self.reckoning.some_may_wait(self.read)
        if not self.waiting:
            self.reckoning.nothing_waits(self.read)


steps = st.lists(st.tuples(st.sampled_from(["comes", "delivers", "sample", "look"]), st.integers(0, 5)), max_size=40)


@given(st.integers(0, 10**7), st.integers(0, 10**7), steps, st.integers(0, 6), st.integers(0, 2))
def test_what_the_guest_got_is_told_or_not_known(
    read: int, used: int, happened: list[tuple[str, int]], backlog: int, swallowed: int
):
    """Once one sample has met QEMU with empty hands. Else too many count as delivered: lost, and none comes twice."""
    story = Story(read, used)
    met = False
    for what, count in happened:
        if what == "look":
            story.look()
        else:
            getattr(story, what)(count)
            met |= what == "sample" and story.reckoning.ahead is not None and not (count % 2 and story.waiting)
    story.comes(backlog)
    got = story.reckoning.seen - story.waiting
    story.swallows(swallowed)
    said = story.reckoning.delivered_up_to(story.used % USED_MODULUS)
    if said is not None:
        assert said in ((got,) if met else (got, got + 1))
    if story.reckoning.ahead is not None:
        assert story.reckoning.read_up_to(story.read) == story.reckoning.seen - story.waiting


def test_the_index_may_turn_over():
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


def test_a_frame_that_is_seen_and_not_yet_in_the_tap():
    reckoning = Reckoning()
    reckoning.nothing_waits(7)
    reckoning.came(one_buffer=True)
    reckoning.nothing_waits(7)  # neither waits it there nor was it read
    assert reckoning.read_up_to(7) == 0


def test_a_frame_in_two_buffers_spoils_what_was_known_before():
    story = Story(0, 0)
    story.look()
    story.comes(4)
    story.delivers(4)
    story.sample(0)
    story.reckoning.came(one_buffer=False)
    assert story.reckoning.delivered_up_to(4) is None
    story.sample(0)
    assert story.reckoning.delivered_up_to(4) is None  # it is not read yet
    story.read, story.used = 5, 6
    story.sample(0)
    assert story.reckoning.delivered_up_to(6) == 5


def test_frames_that_found_the_tap_full_are_never_read():
    story = Story(0, 0)
    story.look()
    story.comes(2)
    story.delivers(1)
    story.waiting = 0  # the other was dropped
    story.reckoning.forget()
    assert story.reckoning.delivered_up_to(1) is None
    story.look()
    story.sample(0)
    assert story.reckoning.delivered_up_to(1) == 2


def test_which_frames_fill_one_buffer():
    assert fills_one_buffer(MAC + bytes(50), MAC)
    assert fills_one_buffer(b"\xff" * 6 + bytes(50), MAC)
    assert not fills_one_buffer(bytes.fromhex("3333ff000001") + bytes(50), MAC)
    assert not fills_one_buffer(bytes.fromhex("525400770033") + bytes(50), MAC)
    assert not fills_one_buffer(MAC + bytes(ONE_BUFFER_BYTES), MAC)


@given(st.integers(0, 10**7), steps)
def test_no_frame_counts_as_waiting_that_was_read(read: int, happened: list[tuple[str, int]]):
    """Also with a tap that was never seen empty: what is carried then the guest has not got."""
    story = Story(read, 0)
    looked, emptied = False, False
    for what, count in happened:
        if what == "look":
            story.look()
            looked, emptied = True, emptied or not story.waiting
        elif what != "sample":
            getattr(story, what)(count)
    last_read = story.reckoning.read_at_most_up_to(story.read)
    assert (last_read is not None) == looked
    if last_read is not None:
        really = story.reckoning.seen - story.waiting
        assert last_read == really if emptied else last_read >= really
