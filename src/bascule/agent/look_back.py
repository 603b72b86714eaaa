"""After a switchover: what only then can be known of it, asked while the source's copy is being removed.

- The clocks are compared once more. Before and after a copy of minutes they may have drifted by milliseconds, and the
  blackout is told on the line between the two comparisons.
- The destination tells when the VM's first frame came out of its tap. It is given a moment; a VM may well be silent.
"""

from __future__ import annotations

from bascule.agent.clock import ClockOffset, between
from bascule.agent.peers import Peers
from bascule.migration.story import Story

FIRST_FRAME_PATIENCE_S = 0.25


async def look_back(peers: Peers, peer: str, story: Story, before: ClockOffset | None) -> None:
    """Put what the destination knows into `story`. `before` is what was known of its clock before the copy.

    Raises BasculeError and NoAnswerError; then the story says less.
    """
    answer = await peers.ask(peer, "GET", f"/v1/peer/moves/{story.move.id}/first-frame", deadline_s=2)
    story.times.first_frame = answer["at_us"]  # first: the VM warms up while it is waited for
    after = await peers.clock_offset(peer)
    if (stopped := story.times.stopped) is None:
        return
    then = after.later(stopped) if before is None else between(before, after, stopped)
    story.times.destination_ahead_us, story.times.error_us = then.ahead_us, then.error_us
