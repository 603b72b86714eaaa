"""What holds for every picture: well-formed, told in words, drawn inside its frame."""

import re
from xml.etree import ElementTree

import pytest

from bascule.report.pictures import NARROW, WIDE, blackout, client, comparison, copying, forecast, throughput
from bascule.report.pictures.canvas import text_width
from bascule.report.pictures.move import render_move_picture
from bascule.report.record import Report

PICTURES = {
    "copy": (copying.missing, copying.copy_picture),
    "client": (client.missing, client.client_picture),
    "blackout": (blackout.missing, blackout.blackout_picture),
    "forecast": (forecast.missing, forecast.forecast_picture),
}
NAMES = ["live", "quick", "failed", "cancelled", "refused", "unknown"]


def svg(source: str) -> ElementTree.Element:
    return ElementTree.fromstring(source)  # noqa: S314 - our own output


def local(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]


def assert_inside(picture: ElementTree.Element) -> None:
    """Every text and rectangle lies inside the frame. Letters are estimated on the wide side, hence the allowance."""
    width, height = (float(part) for part in picture.attrib["viewBox"].split()[2:])
    for node in picture.iter():
        if local(node) == "rect":
            left, top = float(node.attrib["x"]), float(node.attrib["y"])
            assert left >= -0.1
            assert left + float(node.attrib["width"]) <= width + 2.1
            assert top + float(node.attrib["height"]) <= height + 0.1
        if local(node) == "text":
            x, y, text = float(node.attrib["x"]), float(node.attrib["y"]), node.text or ""
            half = {"num": (1.0, 0.0), "mid": (0.5, 0.5)}
            before, after = next(
                (half[name] for name in node.attrib.get("class", "").split() if name in half), (0.0, 1.0)
            )
            needed = text_width(text, 12) * 0.85
            assert x - before * needed >= -1, text
            assert x + after * needed <= width + 1, text
            assert 8 <= y <= height, text


def test_the_line_of_the_blackout_ends_with_it_and_what_followed_has_rows_of_its_own(moves):
    report = Report.from_dict(moves.live())
    picture = svg(blackout.blackout_picture(report, "key", WIDE))
    boxes = [node for node in picture.iter() if local(node) == "rect"]
    (veil,) = (node for node in boxes if node.attrib["class"] == "veil")
    ends_at = float(veil.attrib["x"]) + float(veil.attrib["width"])
    on_the_line = [node for node in boxes if node.attrib["y"] == veil.attrib["y"]]
    assert len(on_the_line) == 1 + len(report.blackout)
    assert all(float(node.attrib["x"]) + float(node.attrib["width"]) <= ends_at + 1.6 for node in on_the_line)
    assert sum(float(node.attrib["x"]) >= ends_at - 1 for node in boxes) == 2


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_or_a_sentence_that_says_why_not(moves, kind, name, width):
    missing, draw = PICTURES[kind]
    report = Report.from_dict(getattr(moves, name)())
    why = missing(report)
    if why:
        assert why.endswith(".")
        return
    picture = svg(draw(report, "k", width))
    title, description = picture.find("title"), picture.find("desc")
    assert title is not None
    assert title.text
    assert description is not None
    assert description.text
    assert picture.attrib["aria-labelledby"] == f"{title.attrib['id']} {description.attrib['id']}"
    assert_inside(picture)


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize(("name", "end_s"), [("live", 2.86), ("failed", 28.8)])
def test_the_curve_of_a_bulk_stream_has_a_gap_where_nothing_came(moves, name, end_s, width):
    stop_s = 2.1312 if name == "live" else None
    report = Report.from_dict(getattr(moves, name)(outage=moves.bulk(stop_s=stop_s, end_s=end_s)))
    assert report.outage is not None
    picture = svg(throughput.throughput_picture(report, report.outage, "k", width))
    assert_inside(picture)
    texts = " ".join(node.text or "" for node in picture.iter("text")).replace("\xa0", " ")
    assert "KiB that came back in each 10 ms" in texts
    lines = [node.attrib["d"] for node in picture.iter("path") if node.attrib.get("class") == "client-line"]
    assert len(lines) == (2 if stop_s else 1)
    panels = [node for node in picture.iter("rect") if node.attrib["class"] == "panel"]
    for line, panel in zip(lines, panels, strict=True):
        ground = float(panel.attrib["y"]) + float(panel.attrib["height"])
        assert (f" {ground:.1f}" in line) == bool(stop_s)
    assert ("stall 38 ms" in texts) == bool(stop_s)


@pytest.mark.parametrize("name", NAMES)
def test_the_move_on_one_sheet_is_a_file_of_its_own(moves, name):
    source = render_move_picture(getattr(moves, name)())
    picture = svg(source)
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in source
    assert_inside(picture)


def test_a_picture_sets_no_colour_by_itself(moves):
    source = render_move_picture(moves.live())
    drawn = source.split("</style>", 1)[1]
    assert not re.search(r'(fill|stroke|style)="', drawn)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_comparison_leaves_out_what_was_not_measured_and_keeps_the_numbers(moves, width):
    reports = [Report.from_dict(data) for data in (moves.refused(), moves.live(), moves.quick(), moves.failed())]
    picture = svg(comparison.comparison_picture(reports, "k", width))
    texts = [node.text for node in picture.iter("text")]
    assert not any(text and text.startswith("1. h") for text in texts)
    assert any(text and text.startswith("2. h1 → h2, live") for text in texts)
    assert "no blackout measured" in texts
    assert_inside(picture)


def test_the_bars_of_a_comparison_are_as_long_as_their_values(moves):
    live = Report.from_dict(moves.live(blackout_ms=1000.0, outage=None))
    quick = Report.from_dict(moves.quick(blackout_ms=4000.0, outage=None))
    picture = svg(comparison.comparison_picture([live, quick], "k", WIDE))
    one, other = [float(node.attrib["width"]) for node in picture.iter("rect")]
    assert other == pytest.approx(4 * one, rel=0.01)


def test_without_figures_there_is_no_comparison(moves):
    assert comparison.missing([Report.from_dict(moves.refused())])


def test_a_part_of_a_third_of_a_millisecond_keeps_its_name_and_a_width(moves):
    report = Report.from_dict(moves.quick())
    picture = svg(blackout.blackout_picture(report, "k", NARROW))
    texts = " ".join(node.text or "" for node in picture.iter("text")).replace("\xa0", " ")
    for name, value in (("stop", "1.2 ms"), ("decision", "0.4 ms"), ("load", "1.31 s")):
        assert f"{name} · {value}" in texts
    assert all(float(node.attrib["width"]) >= 1.5 for node in picture.iter("rect"))


def test_the_closer_look_is_left_out_where_it_would_be_no_closer(moves):
    assert client.zoom_of(Report.from_dict(moves.quick())) is None
    zoom = client.zoom_of(Report.from_dict(moves.live()))
    assert zoom is not None
    assert zoom.origin_name == "STOP"
    assert zoom.span.start_s < 2.1312 < 2.1312 + 0.038 < zoom.span.end_s


def test_every_lost_frame_is_in_the_strip(moves):
    picture = svg(client.client_picture(Report.from_dict(moves.quick()), "k", WIDE))
    tips = [title.text or "" for rect in picture.iter("rect") for title in rect.iter("title")]
    assert sum(int(tip.split()[0].replace(",", "")) for tip in tips if tip.endswith(" lost")) == 3071


def test_a_goal_that_was_not_kept_is_said_in_words(moves):
    picture = forecast.forecast_picture(Report.from_dict(moves.live(blackout_ms=140.0)), "k", WIDE)
    assert "not kept" in picture
    assert "not kept" not in forecast.forecast_picture(Report.from_dict(moves.live()), "k", WIDE)
