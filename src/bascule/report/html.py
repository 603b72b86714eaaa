"""The report as one HTML page that needs nothing else: no network, no script, no file beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bascule.report import sections
from bascule.report.markup import Markup, element, fragment
from bascule.report.record import Report, as_report
from bascule.report.theme import page_style

# The page may load nothing at all, so that not even a mistake of ours could fetch something.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render_html(reports: Sequence[Report | Mapping[str, Any]], title: str) -> str:
    """Write a page for one move or several: with several, a table and a comparison come first.

    Names and reasons may contain anything; they are escaped. Samples are thinned to what can be seen, so that the
    page stays small.

    Raises:
        Refused: a report has another schema.
    """
    moves = [as_report(report) for report in reports]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", title),
        element("style", page_style()),
    )
    page = element("html", head, element("body", _body(moves, title)), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _body(moves: Sequence[Report], title: str) -> Markup:
    if not moves:
        return element("main", element("h1", title), element("p", "There is no move to tell of.", class_="none"))
    if len(moves) == 1:
        return element("main", element("h1", title), sections.move_section(moves[0], 1, alone=True))
    return element(
        "main",
        sections.overview(moves, title),
        fragment(sections.move_section(move, number, alone=False) for number, move in enumerate(moves, 1)),
    )
