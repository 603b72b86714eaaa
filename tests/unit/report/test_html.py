import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bascule.report.html import render_html
from bascule.report.pictures.move import render_move_picture
from bascule.report.text import render_text

EVIL = "<script>alert('1')</script>\"'&\x00\x1b\ud800]]>-->"


class Page(HTMLParser):
    """Checks that tags are balanced, and gathers what the tests ask for."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag, attrs):
        self._note(tag, attrs)

    def handle_starttag(self, tag, attrs):
        self._note(tag, attrs)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def _note(self, tag, attrs):
        self.seen.append(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(value)
            if name == "href":
                self.links.append(value)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def assert_self_contained(source: str) -> None:
    without_namespace = source.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "http://" not in without_namespace
    assert "https://" not in without_namespace
    assert not re.search(r"\bsrc\s*=", source)
    assert "url(" not in source
    assert not re.search(r"<(script|link|iframe|object|embed|img|base|form)\b", source)
    assert not re.search(r"<[^>]*\son\w+\s*=", source)


@pytest.mark.parametrize("name", ["live", "quick", "failed", "cancelled", "refused", "unknown"])
def test_the_page_of_one_move(moves, name):
    source = render_html([getattr(moves, name)()], f"A {name} move")
    page = Page(source)
    assert source.startswith("<!DOCTYPE html>")
    assert page.seen.count("h1") == 1
    assert len(page.ids) == len(set(page.ids))
    assert_self_contained(source)
    for svg in re.findall(r"<svg.*?</svg>", source, re.DOTALL):
        assert ElementTree.fromstring(svg).find("title") is not None  # noqa: S314 - our own output


def test_the_page_of_several_moves_links_to_each(moves):
    source = render_html(moves.everything(), "Demo")
    page = Page(source)
    assert page.links == [f"#move-{number}" for number in range(1, 7)]
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "6 moves, 2 completed." in page.text
    assert "What each move cost" in page.text
    assert_self_contained(source)


def test_headings_leave_out_no_level(moves):
    for reports in ([moves.live()], moves.everything()):
        levels = [int(tag[1]) for tag in Page(render_html(reports, "Demo")).seen if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1
        assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_a_page_of_no_move_says_so():
    assert "There is no move to tell of." in Page(render_html([], "Empty")).text


def test_missing_parts_are_said_in_words(moves):
    text = Page(render_html([moves.cancelled()], "x")).text
    assert "No client was watching" in text
    assert "no blackout to take apart" in text
    assert "No forecast was made." in text
    text = Page(render_html([moves.refused()], "x")).text
    assert "Nothing was copied, stopped or changed" in text
    text = Page(render_html([moves.live(blackout=None, timeline=None)], "x")).text
    assert "its parts were not recorded" in text
    assert "The course of the copy was not recorded." in text


def spoiled(value):
    """Replace every string in a report by something evil, but for those that choose what is shown."""
    if isinstance(value, dict):
        return {
            key: item if key in {"outcome", "mode", "clock", "what"} else spoiled(item) for key, item in value.items()
        }
    if isinstance(value, list):
        return [spoiled(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_nothing_that_a_report_says_becomes_markup(moves):
    reports = [spoiled(report) for report in moves.everything()]
    for source in (
        render_html(reports, EVIL),
        render_html(reports[:1], EVIL),
        *(render_move_picture(report) for report in reports),
    ):
        assert "<script" not in source
        assert "alert(" in source
        assert_self_contained(source)
        source.encode("utf-8")
    Page(render_html(reports, EVIL))
    for report in reports:
        ElementTree.fromstring(render_move_picture(report))  # noqa: S314 - our own output


def test_an_evil_mode_outcome_clock_and_mark_are_escaped_too(moves):
    data = moves.live(mode=EVIL, outcome=EVIL)
    for part in data["blackout"]:
        part["clock"] = EVIL
    data["marks"].append({"at_s": 1.0, "what": EVIL})
    source = render_html([data, data], "x")
    Page(source)
    assert "<script" not in source


def test_many_samples_stay_small_and_keep_the_lost_one_and_the_worst(moves):
    source = render_html([moves.crowded(100_000)], "crowded")
    assert len(source) < 300_000
    assert "1 lost" in source
    assert ">1,000<" in source  # the scale reaches over the 900 ms of a single round trip


def test_many_rounds_stay_small(moves):
    data = moves.live()
    first = data["rounds"][0]
    data["rounds"] = [first | {"number": n, "start_s": n * 1e-4, "duration_s": 1e-4} for n in range(20_000)]
    assert len(render_html([data], "rounds")) < 500_000


numbers = st.one_of(st.none(), st.integers(-(10**20), 10**20), st.floats(), st.floats(-1, 10), st.booleans())
strings = st.one_of(
    st.none(), st.text(max_size=12), st.sampled_from(["STOP", "RESUME", "announcement", "live", "quick"])
)


def objects(**fields):
    return st.fixed_dictionaries({}, optional=fields)


def rows(**fields):
    return st.one_of(st.none(), strings, st.lists(objects(**fields), max_size=6))


def numbered(*names):
    return dict.fromkeys(names, numbers)


reports = objects(
    id=strings,
    vm=strings,
    source=strings,
    destination=strings,
    mode=strings,
    reason=strings,
    outcome=st.sampled_from([None, "completed", "refused", "failed", "cancelled", "unknown", "?"]),
    goals=st.one_of(st.none(), objects(**numbered("max_blackout_ms", "deadline_s"))),
    rounds=rows(**numbered("number", "start_s", "duration_s", "sent_bytes", "remaining_bytes", "rate_bytes_per_s")),
    bytes=st.one_of(
        st.none(), objects(**numbered("total", "normal_pages", "zero_pages", "other", "transferred_in_blackout"))
    ),
    blackout=rows(phase=strings, clock=strings, **numbered("start_ms", "ms")),
    forecast=st.one_of(st.none(), objects(**numbered("made_at_s", "total_s", "blackout_ms"))),
    timeline=rows(**numbered("at_s", "remaining_bytes", "transferred_bytes", "rate_bytes_per_s")),
    marks=rows(at_s=numbers, what=strings),
    phases=rows(phase=strings, **numbered("start_s", "duration_s")),
    outage=st.one_of(
        st.none(),
        objects(
            probe=strings,
            note=strings,
            samples=st.one_of(st.none(), st.lists(st.lists(numbers, min_size=2, max_size=2), max_size=8)),
            **numbered("probe_hz", "sent", "lost", "longest_silence_ms", "rtt_median_ms", "silence_start_s"),
        ),
    ),
    blackout_basis=strings,
    **numbered("total_s", "memory_mib", "blackout_ms", "blackout_error_ms"),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(reports)
def test_whatever_a_report_holds_it_can_be_rendered(report):
    assert max(map(len, render_text(report).splitlines())) <= 110
    source = render_html([report, report], "any")
    Page(source)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', source)
    ElementTree.fromstring(render_move_picture(report))  # noqa: S314 - our own output
