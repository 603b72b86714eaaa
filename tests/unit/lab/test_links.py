from __future__ import annotations

import pytest

from bascule.errors import Refused
from bascule.lab.links import limit_line, parse_rate, rate_text


@pytest.mark.parametrize(
    ("text", "rate_bit_s"),
    [("1gbit", 10**9), ("100mbit", 10**8), ("10gbit", 10**10), ("2.5gbit", 2_500_000_000), (" 5000KBIT", 5_000_000)],
)
def test_rates(text, rate_bit_s):
    assert parse_rate(text) == rate_bit_s
    assert parse_rate(rate_text(rate_bit_s)) == rate_bit_s


@pytest.mark.parametrize("text", ["", "1", "fast", "1gb", "-1gbit", "0mbit", "1kbit", "101gbit", "1gbit/s", "1e9gbit"])
def test_what_is_no_rate_is_refused_with_an_example(text):
    with pytest.raises(Refused, match="no rate") as caught:
        parse_rate(text)
    assert "1gbit" in caught.value.remedy


def test_an_unlimited_link_says_so():
    assert rate_text(None) == "unlimited"


@pytest.mark.parametrize(("rate", "burst_bytes"), [(10**6, 16384), (10**9, 125_000), (10**10, 1_250_000)])
def test_a_bucket_holds_one_millisecond_but_never_less_than_some_frames(rate, burst_bytes):
    assert limit_line("up0", rate) == (
        f"qdisc replace dev up0 root tbf rate {rate}bit burst {burst_bytes} latency 10ms"
    )
