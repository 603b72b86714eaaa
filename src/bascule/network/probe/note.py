"""The sentences beside an outage's figures: what the probe itself did or could not do, and how its connection fared.

An empty note means that the probe asked on time, was never hindered, and that the figures are final.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from bascule.network.probe.connection import connection_between
from bascule.network.probe.samples import PauseCause, Samples

NS_PER_MS = 1e6
NS_PER_S = 1e9
_WAITING_WORTH_TELLING = 0.05  # of the window: less is within what "times a second" promises


def note_of(
    samples: Samples,
    start_ns: int,
    end_ns: int,
    *,
    asked: range,
    first_ns: Sequence[int],
    silence: tuple[int, int] | None,
    timeout_ns: int,
    origin_ns: int,
) -> str:
    """Say in sentences what a reader must know of the window [start, end) to trust its figures.

    `asked` are the probes sent in it, `first_ns` the arrival of their first answers (0: none), `silence` the longest
    one. Times count from `origin_ns`.
    """
    sentences = [
        *_connection(samples, start_ns, end_ns),
        *_own_gaps(samples, start_ns, end_ns, silence, origin_ns),
        *_peculiar(samples, start_ns, end_ns + timeout_ns),
        *_hindered(samples, asked, start_ns, end_ns + timeout_ns),
        *_not_final(samples, end_ns, asked, first_ns, timeout_ns),
    ]
    return " ".join(sentences)


def _connection(samples: Samples, start_ns: int, end_ns: int) -> Iterator[str]:
    connection = connection_between(samples, start_ns, end_ns)
    if connection is not None:
        yield connection.sentence()
    for cause, why in (
        (PauseCause.FULL, "the kernel's buffer for the connection was full"),
        (PauseCause.NO_CONNECTION, "there was no connection"),
        (PauseCause.CROWDED, "too many connections waited for an answer already (see: ulimit -n)"),
    ):
        if pauses := samples.pauses(cause, start_ns, end_ns):
            yield f"For {_total(pauses)} nothing was asked because {why}."
    waiting = samples.pauses(PauseCause.WAITING, start_ns, end_ns)
    waited_ns = sum(end - begin for begin, end in waiting)
    if waited_ns > _WAITING_WORTH_TELLING * (end_ns - start_ns):
        rate = len(samples.sent_in(start_ns, end_ns)) / ((end_ns - start_ns) / NS_PER_S)
        yield f"Each request waits for the answer to the last one: {rate:.0f} a second were sent."


def _own_gaps(
    samples: Samples, start_ns: int, end_ns: int, silence: tuple[int, int] | None, origin_ns: int
) -> Iterator[str]:
    gaps = samples.own_gaps(start_ns, end_ns)
    if gaps:
        begin, end = max(gaps, key=lambda gap: gap[1] - gap[0])
        at = f"at {(begin - origin_ns) / NS_PER_S:.3f} s"
        longest = f"{len(gaps)} gaps, the longest {(end - begin) / NS_PER_MS:.1f} ms {at}"
        yield f"The probe itself was not scheduled for {_total(gaps)} ({longest if len(gaps) > 1 else f'1 gap, {at}'})."
    if silence and (inside := samples.own_gaps(*silence)):
        yield f"{_total(inside)} of that fall into the longest silence, which may be as much too long."


def _peculiar(samples: Samples, start_ns: int, end_ns: int) -> Iterator[str]:
    """What holds for one kind of probe only."""
    if resets := sum(int(event.facts["count"]) for event in samples.events_in("reset", start_ns, end_ns)):
        yield (
            f"{resets} times the port was refused (RST): nothing listens there, but the machine answered, and that"
            " counts as an answer."
        )
    others = {str(event.facts["mac"]) for event in samples.events_in("other-mac", 0, end_ns)}  # asked at the beginning
    if others:
        yield f"The address was also claimed by another MAC: {', '.join(sorted(others))}."
    if samples.stream.kind == "arp":
        yield "ARP's answers carry no number: reordering cannot be seen."


def _hindered(samples: Samples, asked: range, start_ns: int, end_ns: int) -> Iterator[str]:
    refused: dict[int, int] = {}
    for event in samples.events:
        if event.what == "send-refused":
            first, last = max(asked.start, event.facts["first"]), min(asked.stop - 1, event.facts["last"])
            if last >= first:
                number = int(event.facts["errno"])
                refused[number] = refused.get(number, 0) + last - first + 1
    for number, count in refused.items():
        yield f"{_probes(count)} could not leave this machine ({os.strerror(number)}) and count as sent and lost."
    if unreachable := samples.events_in("unreachable", start_ns, end_ns):
        reasons = sorted({os.strerror(int(event.facts["errno"])) for event in unreachable})
        count = sum(int(event.facts["count"]) for event in unreachable)
        yield f"The network answered {count} times with an error ({', '.join(reasons)})."
    if drops := sum(int(event.facts["count"]) for event in samples.events_in("own-drops", start_ns, end_ns)):
        yield f"The probe's own receive buffer overflowed: {_probes(drops)} answered and counted as lost all the same."
    if foreign := sum(int(event.facts["count"]) for event in samples.events_in("foreign", start_ns, end_ns)):
        yield f"{foreign} messages were not answers to this probe."
    if bad := sum(int(event.facts["count"]) for event in samples.events_in("bad-status", start_ns, end_ns)):
        yield f"{bad} answers had an HTTP status other than 200."


def _not_final(samples: Samples, end_ns: int, asked: range, first_ns: Sequence[int], timeout_ns: int) -> Iterator[str]:
    if samples.recorded_until_ns < end_ns:
        yield f"The recording ends {(end_ns - samples.recorded_until_ns) / NS_PER_MS:.0f} ms before the window does."
    if samples.recorded_until_ns >= end_ns + timeout_ns:
        return
    young = samples.recorded_until_ns - timeout_ns
    on_the_way = sum(
        1 for sequence, at in zip(asked, first_ns, strict=True) if not at and samples.sent_at_ns[sequence] > young
    )
    if on_the_way:
        were = "was" if on_the_way == 1 else "were"
        yield f"{_probes(on_the_way)} of the lost {were} still within the answer time-out when the recording ended."


def _total(pauses: Sequence[tuple[int, int]]) -> str:
    return f"{sum(end - begin for begin, end in pauses) / NS_PER_MS:.1f} ms"


def _probes(count: int) -> str:
    return "1 probe" if count == 1 else f"{count} probes"
