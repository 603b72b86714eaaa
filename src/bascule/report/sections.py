"""The parts of the page: the overview of several moves, and the section of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bascule.report import sentences, tables, words
from bascule.report.markup import Markup, element, fragment
from bascule.report.pictures import NARROW, WIDE
from bascule.report.pictures import blackout as blackout_pictures
from bascule.report.pictures import client as client_pictures
from bascule.report.pictures import comparison as comparison_pictures
from bascule.report.pictures import copying as copy_pictures
from bascule.report.pictures import forecast as forecast_pictures
from bascule.report.pictures import throughput as throughput_pictures
from bascule.report.record import Outage, Report

CLOCK_NAMES = {
    "source": "the source's clock",
    "destination": "the destination's clock",
    "both": "from one clock to the other",
    "client": "the client's clock",
}
BADGES = {"completed": "good", "failed": "bad", "unknown": "bad"}

Picture = Callable[[str, int], Markup]


def overview(moves: Sequence[Report], title: str) -> Markup:
    """Give what stands above the single moves: how many, a table with links, and the comparison."""
    done = sum(move.outcome == "completed" for move in moves)
    told = f"{words.counted(len(moves), 'move')}, {done if done < len(moves) else 'all'} completed."
    return element(
        "section",
        element("h1", title),
        element("p", told, class_="lead"),
        element("div", tables.summary(moves), class_="stack"),
        _figure(
            "What each move cost",
            "The client's longest silence, and the time in which no vCPU ran.",
            comparison_pictures.missing(moves),
            lambda key, width: comparison_pictures.comparison_picture(moves, key, width),
            key="all-compared",
            level="h2",
        ),
    )


def move_section(move: Report, number: int, *, alone: bool) -> Markup:
    """Give the section of one move; `number` makes its anchors unique."""
    way = f"{words.visible(move.vm)}: {words.visible(move.source)} → {words.visible(move.destination)}"
    level = "h2" if alone else "h3"
    heading = [] if alone else [element("h2", f"{number}. {way}", f" ({move.mode})" if move.mode else "")]
    return element(
        "section",
        heading,
        element("p", badge(move), class_="quiet"),
        element("p", f"{sentences.headline(move)}.", class_="lead"),
        _reason(move),
        _figures(move),
        _pictures(move, f"m{number}", level),
        tables.rounds(move, level),
        tables.facts(move, level),
        tables.events(move),
        id=f"move-{number}",
        class_="move",
    )


def badge(move: Report) -> Markup:
    """Give the outcome as a small label; the word says it, the colour only helps."""
    return element("span", move.outcome or "unknown", class_=f"badge {BADGES.get(move.outcome, 'open')}")


def _reason(move: Report) -> Markup:
    if move.outcome != "completed" or not sentences.reason_of(move):
        return Markup("")  # the headline has told it
    reason = sentences.reason_of(move)
    return element("p", f"{reason[0].upper()}{reason[1:]}.")


def _figures(move: Report) -> Markup:
    """Give the few numbers that matter most, large."""
    outage = move.outage
    cells: list[tuple[str, str, str, bool]] = []
    if move.total_s is not None:
        cells.append(("total time", words.seconds(move.total_s), "", False))
    if move.blackout_ms is not None:
        kept = sentences.goal_kept(move)
        cells.append(("blackout", words.milliseconds(move.blackout_ms), kept, kept.endswith("not kept")))
    if outage is not None and outage.longest_silence_ms is not None:
        name = "client's longest stall" if outage.throughput is not None else "client's longest silence"
        cells.append((name, words.milliseconds(outage.longest_silence_ms), "", False))
    if outage is not None and outage.throughput is not None:
        took_s = outage.throughput.end_s - outage.throughput.start_s
        speed = words.rate(outage.throughput.total_bytes / took_s)
        cells.append(("client got back", words.memory(outage.throughput.total_bytes), speed, outage.lost > 0))
    elif outage is not None:
        cells.append(("client lost", f"{outage.lost:,}", f"of {outage.sent:,} sent", outage.lost > 0))
    if not cells:
        return Markup("")
    return element(
        "dl",
        [
            element(
                "div",
                element("dt", name),
                element("dd", value, element("span", more, class_="quiet") if more else ""),
                class_="bad" if bad else None,
            )
            for name, value, more, bad in cells
        ],
        class_="figures",
    )


def _pictures(move: Report, key: str, level: str) -> Markup:
    if move.outcome == "refused" and not move.timeline and move.outage is None:
        return element("p", "Nothing was copied, stopped or changed, so there is nothing to draw.", class_="none")
    return fragment(
        _figure(
            "The copy",
            "Memory left to send, and the rate. A dot marks what was left when a round ended.",
            copy_pictures.missing(move),
            lambda name, width: copy_pictures.copy_picture(move, name, width),
            key=f"{key}-copy",
            level=level,
        ),
        _figure(
            "What the client felt",
            sentences.client_told(move),
            client_pictures.missing(move),
            lambda name, width: client_pictures.client_picture(move, name, width),
            key=f"{key}-client",
            level=level,
        ),
        [
            _bulk(move, outage, f"{key}-bulk{number}", level)
            for number, outage in enumerate(throughput_pictures.streams(move))
        ],
        _figure(
            "The blackout taken apart",
            _blackout_told(move),
            blackout_pictures.missing(move),
            lambda name, width: blackout_pictures.blackout_picture(move, name, width),
            key=f"{key}-blackout",
            level=level,
        ),
        _figure(
            "Forecast against outcome",
            sentences.forecast_made(move),
            forecast_pictures.missing(move),
            lambda name, width: forecast_pictures.forecast_picture(move, name, width),
            key=f"{key}-forecast",
            level=level,
        ),
    )


def _bulk(move: Report, outage: Outage, key: str, level: str) -> Markup:
    return _figure(
        "What came back of a bulk TCP stream",
        f"{throughput_pictures.describe(move, outage)} {words.visible(outage.note)}".rstrip(),
        "",
        lambda name, width: throughput_pictures.throughput_picture(move, outage, name, width),
        key=key,
        level=level,
    )


def _figure(heading: str, told: str | Markup, missing: str, draw: Picture, *, key: str, level: str) -> Markup:
    """Give a picture twice, for wide and for narrow windows (the style sheet shows one), or say why there is none."""
    if missing:
        return element(
            "div", element(level, heading, class_="part"), element("p", missing, class_="none"), class_="block"
        )
    return element(
        "figure",
        element(level, heading, class_="part"),
        element("figcaption", told),
        element("div", draw(f"{key}-wide", WIDE), class_="wide"),
        element("div", draw(f"{key}-narrow", NARROW), class_="narrow"),
    )


def _blackout_told(move: Report) -> Markup:
    """Give what the picture of the blackout was measured by, and the key to its colours."""
    basis, missing_ms = words.visible(move.blackout_basis).rstrip("."), sentences.unaccounted_ms(move)
    told = [f"Measured: {basis}. "] if basis else []
    if missing_ms:
        told.append(f"{words.milliseconds(missing_ms)} are not accounted for. ")
    keys = [
        element("span", f"\N{BLACK SQUARE} {CLOCK_NAMES[clock]}", class_=f"key key-{blackout_pictures.CLOCKS[clock]}")
        for clock in blackout_pictures.clocks_used(move)
    ]
    return fragment(told, element("br") if told and keys else "", keys)
