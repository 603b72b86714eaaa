import pytest

from bascule.report.html import render_html
from bascule.report.record import Report
from bascule.report.text import COLUMNS, render_text
from bascule.report.throughput import Throughput, level, line_picture, read_throughput

STEADY = Throughput(-0.5, 10.0, (1000,) * 50 + (0, 0, 500) + (1000,) * 47, 97_500)


def test_anything_above_nothing_is_seen() -> None:
    assert (level(0), level(1e-9), level(1.0), level(7.0)) == (" ", "▁", "█", "█")


def test_the_blackout_stands_under_the_steps_in_which_it_was() -> None:
    told, drawn, dark = line_picture(STEADY, (0.004, 0.013), 60)
    assert told == "bytes per 10\xa0ms, the highest 1,000\xa0B, from -0.25 s to 0.35 s:".replace(
        "1,000\xa0B", "1000\xa0B"
    )
    assert drawn == "█" * 25 + "  ▅" + "█" * 32
    assert dark == " " * 25 + "== blackout"


def test_a_long_blackout_is_drawn_whole_in_wider_columns() -> None:
    long = Throughput(0.0, 10.0, (1000,) * 100 + (0,) * 300 + (1000,) * 100, 200_000)
    told, drawn, dark = line_picture(long, (1.0, 4.0), 40)
    assert "bytes per 90\xa0ms" in told
    assert drawn.count(" ") == dark.count("=") - 2  # its first and its last column are dark in part
    assert len(drawn) <= 40


def test_without_a_blackout_the_whole_window_is_drawn() -> None:
    told, drawn = line_picture(STEADY, None, 50)
    assert "bytes per 20\xa0ms" in told
    assert "from -0.50 s to 0.50 s" in told
    assert drawn == "█" * 25 + " ▇" + "█" * 23


def test_nothing_at_all_and_a_blackout_outside_are_no_trouble() -> None:
    assert line_picture(Throughput(0.0, 10.0, (0, 0), 0), (5.0, 6.0), 80)[1] == "(nothing)"
    assert line_picture(Throughput(0.0, 10.0, (7,), 7), (-3.0, -2.0), 80)[1] == "█"


@pytest.mark.parametrize("data", [{}, {"bytes": [], "step_ms": 10}, {"bytes": [1], "step_ms": 0}, {"bytes": "no"}])
def test_what_is_no_stream_is_read_as_none(data) -> None:
    assert read_throughput(data) is None


def test_what_is_ill_typed_in_it_is_read_as_nothing() -> None:
    assert read_throughput({"bytes": [5, None, "x", -1], "step_ms": 10}) == Throughput(0, 10, (5, 0, 0, 0), 0)


def test_the_text_tells_the_stall_beside_the_blackout(moves) -> None:
    text = render_text(moves.live(outage=moves.bulk()))
    assert text.startswith(
        "web moved from h1 to h2 in 2.3 s; its vCPUs stood still for 14.2 ms; of a client's bulk TCP"
    )
    assert "no byte came for 38 ms at worst, beside a blackout of 14.2 ms" in text
    assert "longest stall 38 ms from 2.131 s on" in text
    assert "== blackout" in text
    assert "at 1 kHz" not in text
    assert all(len(line) <= COLUMNS and line == line.rstrip() for line in text.splitlines())


def test_a_stream_beside_another_client_is_told_and_drawn_too(moves) -> None:
    report = moves.live()
    report["outage"]["others"] = [moves.bulk(samples=[])]
    assert "== blackout" in render_text(report)
    page = render_html([report], title="moves")
    assert page.count("What came back of a bulk TCP stream over the move") == 2
    assert "no byte came for 38\xa0ms at worst, beside a blackout of 14.2\xa0ms" in page
    assert (
        Report.from_dict(report).to_dict()["outage"]["others"][0]["throughput"]
        == report["outage"]["others"][0]["throughput"]
    )


def test_a_move_without_a_blackout_has_its_curve_all_the_same(moves) -> None:
    failed = moves.failed(outage=moves.bulk(stop_s=None, silence_ms=6.0, end_s=28.8))
    text = render_text(failed)
    assert "no byte came for 6 ms at worst" in text
    assert "blackout" not in text.partition("Bulk TCP")[2]
    assert "What came back of a bulk TCP stream" in render_html([failed], title="moves")
