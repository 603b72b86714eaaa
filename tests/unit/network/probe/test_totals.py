from __future__ import annotations

from array import array

from bascule.network.outage import outage_between
from bascule.network.probe.samples import Samples, StreamInfo
from bascule.network.probe.totals import Totals

MS = 1_000_000
S = 1000 * MS


def test_bit_by_bit_the_sums_are_those_of_the_whole() -> None:
    sent = [S + number * MS for number in range(5000)]
    whole = Samples(StreamInfo("udp", "10.77.0.50:7", 1000.0), sent_at_ns=array("q", sent))
    for number, at in enumerate(sent):
        if not 2000 <= number < 2077:
            whole.answer_sequence.append(number)
            whole.answer_at_ns.append(at + MS // 4)
    grown = Samples(whole.stream)
    totals = Totals()
    for until in range(0, 8 * S, 230 * MS):  # 2077 lies in the middle of a step
        grown.sent_at_ns = array("q", [at for at in whole.sent_at_ns if at <= until])
        grown.answer_at_ns = array("q", [at for at in whole.answer_at_ns if at <= until])
        grown.answer_sequence = whole.answer_sequence[: len(grown.answer_at_ns)]
        grown.recorded_until_ns = until
        grown.stopped_at_ns = 6 * S if until >= 6 * S else None
        totals.add(grown)
    seen = outage_between(grown, S, totals.until_ns)
    assert (totals.sent, totals.lost, totals.duplicated, totals.reordered) == (5000, 77, 0, 0)
    assert totals.longest_silence_ms == seen.longest_silence_ms == 78.0
    assert totals.silent_ms > 1000


def test_before_the_first_probe() -> None:
    totals = Totals()
    totals.add(Samples(StreamInfo("udp", "10.77.0.50:7", 1000.0), recorded_until_ns=5 * S))
    assert (totals.sent, totals.duration_s, totals.silent_ms) == (0, 0.0, 0.0)
