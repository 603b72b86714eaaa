"""The tables of the page. A table that lacks its figures is left out, or says so."""

from __future__ import annotations

from collections.abc import Sequence

from bascule.report import frames, network, sentences, words
from bascule.report.markup import Markup, element, fragment
from bascule.report.record import Report, Round

MOST_ROWS = 500
MOST_OPEN_ROWS = 25


def summary(moves: Sequence[Report]) -> Markup:
    """Give one row for each move, with a link to its section."""
    names = ("Move", "How", "Outcome", "Total", "Blackout", "Longest silence", "Lost")
    head = element("tr", [element("th", name, scope="col") for name in names])
    return element(
        "table",
        element("thead", head),
        element("tbody", [_summary_row(move, number, names) for number, move in enumerate(moves, 1)]),
    )


def _summary_row(move: Report, number: int, names: Sequence[str]) -> Markup:
    way = f"{number}. {words.visible(move.vm)}: {words.visible(move.source)} → {words.visible(move.destination)}"
    outage = move.outage
    cells = (
        move.mode,
        move.outcome,
        words.seconds(move.total_s),
        words.milliseconds(move.blackout_ms),
        words.milliseconds(outage.longest_silence_ms) if outage else words.NONE,
        f"{outage.lost:,} of {outage.sent:,}" if outage else words.NONE,
    )
    bad = move.outcome in ("failed", "unknown")
    return element(
        "tr",
        element("th", element("a", way, href=f"#move-{number}"), scope="row"),
        [
            element("td", cell, data_label=f"{name}:", class_="bad" if bad and name == "Outcome" else None)
            for name, cell in zip(names[1:], cells, strict=True)
        ],
    )


def rounds(move: Report, level: str) -> Markup:
    """Give the rounds of the copy, under a heading of that level."""
    if not move.rounds:
        return Markup("")
    names = ("Round", "Start, s", "Duration, s", "Sent, MiB", "Left, MiB", "Rate, MiB/s")
    shown = move.rounds if len(move.rounds) <= MOST_ROWS else move.rounds[-MOST_ROWS:]
    left_out = len(move.rounds) - len(shown)
    head = element("tr", [element("th", name, scope="col") for name in names])
    table = element(
        "table",
        element("caption", f"Only the last {MOST_ROWS} of {len(move.rounds):,} rounds.") if left_out else "",
        element("thead", head),
        element("tbody", [_round_row(round_) for round_ in shown]),
    )
    box = element("div", table, class_="scroll", tabindex="0", role="region", aria_label="Rounds of the copy")
    if len(move.rounds) > MOST_OPEN_ROWS:
        box = element("details", element("summary", f"Show {words.counted(len(shown), 'round')}"), box)
    return element("div", element(level, "The rounds", class_="part"), box, class_="block")


def _round_row(round_: Round) -> Markup:
    cells = (
        f"{round_.start_s:,.2f}",
        f"{round_.duration_s:,.2f}",
        f"{round_.sent_bytes / words.MIB:,.1f}",
        f"{round_.remaining_bytes / words.MIB:,.1f}",
        f"{round_.rate_bytes_per_s / words.MIB:,.1f}",
    )
    return element("tr", element("th", f"{round_.number}", scope="row"), [element("td", cell) for cell in cells])


def facts(move: Report, level: str) -> Markup:
    """Give the rest of what is known, as names and values, under a heading of that level."""
    outage = move.outage
    found = [
        ("move", words.visible(move.id)),
        ("started", words.visible(move.started_at)),
        (
            "guest",
            ", ".join(
                text
                for text in (
                    f"{words.memory(move.memory_mib * words.MIB)} of memory" if move.memory_mib else "",
                    sentences.accelerator(move),
                )
                if text
            ),
        ),
        ("sent", ", ".join(sentences.sent_lines(move))),
        ("asked for", sentences.goals_told(move)),
    ]
    if move.network is not None:
        found += [("network", network.arrival(move.network)), ("announced", network.announced(move.network))]
    if move.frames is not None:
        found.append(("in the blackout", frames.told(move.frames)))
    if outage is not None:
        found += [
            ("client", sentences.client_who(outage)),
            ("frames", sentences.client_counts(outage)),
            ("round trips", sentences.client_trips(outage)),
        ]
        found += [("also", sentences.other_client(other)) for other in outage.others]
    pairs = [fragment(element("dt", name), element("dd", value)) for name, value in found if value]
    return element(
        "div", element(level, "More figures", class_="part"), element("dl", pairs, class_="facts"), class_="block"
    )


def events(move: Report) -> Markup:
    """Give the marks and phases in the order of time, folded away."""
    happened = [(mark.at_s, mark.what, "") for mark in move.marks]
    happened += [(phase.start_s, f"phase: {phase.phase}", words.seconds(phase.duration_s)) for phase in move.phases]
    if not happened:
        return Markup("")
    rows = [
        element(
            "tr", element("td", f"{at_s:,.4f}"), element("td", words.visible(what), class_="left"), element("td", took)
        )
        for at_s, what, took in sorted(happened)[:MOST_ROWS]
    ]
    head = element(
        "tr",
        element("th", "At, s", scope="col"),
        element("th", "What", scope="col", class_="left"),
        element("th", "Took", scope="col"),
    )
    table = element("table", element("thead", head), element("tbody", rows))
    return element("details", element("summary", "What happened when"), element("div", table, class_="scroll"))
