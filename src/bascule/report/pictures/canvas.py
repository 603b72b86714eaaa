"""The frame of a picture, and the texts and measures in it."""

from __future__ import annotations

from dataclasses import dataclass

from bascule.report.markup import Child, Markup, element, fragment

SVG_NAMESPACE = "http://www.w3.org/2000/svg"  # a name, which nobody ever fetches
FONT_PX = 13.0
LINE_PX = 17.0

# Widths of letters in ems. On the wide side (those of DejaVu Sans), so that a text never needs more than was planned.
NARROW_LETTERS = frozenset("iljI.,:;'|!()[] ·ft/\N{NO-BREAK SPACE}")
WIDE_LETTERS = frozenset("mwMW@%—→…")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.top + self.height


def picture(
    key: str, width: float, height: float, *children: Child, title: str, description: str, class_: str = ""
) -> Markup:
    """Frame a picture that stands in a page. `key` is unique on the page; title and description are read aloud."""
    return element(
        "svg",
        element("title", title, id=f"{key}-title"),
        element("desc", description, id=f"{key}-desc"),
        *children,
        viewBox=f"0 0 {width:g} {height:.0f}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        class_=class_ or None,
    )


def text_width(text: str, size_px: float = FONT_PX) -> float:
    """Estimate how wide `text` is at most."""
    ems = sum(0.36 if char in NARROW_LETTERS else 0.95 if char in WIDE_LETTERS else 0.63 for char in text)
    return ems * size_px


def shortened(text: str, room: float, size_px: float = FONT_PX) -> str:
    """Cut `text` so that it fits into `room` pixels; a cut one ends with an ellipsis."""
    if text_width(text, size_px) <= room:
        return text
    while text and text_width(text + "…", size_px) > room:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


def wrapped(text: str, room: float, size_px: float = FONT_PX) -> list[str]:
    """Break `text` into lines that fit into `room` pixels."""
    lines: list[str] = []
    for word in text.split(" "):  # and not at the spaces between a number and its unit
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size_px) <= room:
            lines[-1] = longer
        else:
            lines.append(shortened(word, room, size_px))
    return lines


def label(x: float, y: float, text: str, class_: str = "") -> Markup:
    """Write `text` with its base line at y. The classes num and mid end or centre it at x."""
    return element("text", text, x=x, y=y, class_=class_ or None)


def rectangle(box: Box, class_: str, tip: str = "") -> Markup:
    """Draw a filled rectangle; `tip` is shown when the mouse rests on it."""
    children = [element("title", tip)] if tip else []
    return element("rect", *children, x=box.left, y=box.top, width=box.width, height=box.height, class_=class_)


def path(data: str, class_: str) -> Markup:
    """Draw a path."""
    return element("path", d=data, class_=class_)


def placed(x: float, room: Box, text: str) -> tuple[float, str]:
    """Find where a text centred at x may stand without leaving `room`: its x and its anchor's class."""
    half = text_width(text) / 2
    if x - half < room.left:
        return room.left, ""
    if x + half > room.right:
        return room.right, "num"
    return x, "mid"


def measure(start: float, end: float, y: float, text: str, *, room: Box, kind: str) -> Markup:
    """Draw a dimension line from `start` to `end` with its text on it or, where it is too short, beside it.

    `kind` is the colour: client or dark.
    """
    line = path(f"M{start:.1f} {y - 4:.1f}v8M{start:.1f} {y:.1f}H{end:.1f}M{end:.1f} {y - 4:.1f}v8", f"size-{kind}")
    width = text_width(text)
    if width + 16 > end - start and end + 6 + width <= room.right:
        return fragment(line, label(end + 6, y + 4, text, kind))
    if width + 16 > end - start and start - 6 - width >= room.left:
        return fragment(line, label(start - 6, y + 4, text, f"{kind} num"))
    middle, gap = (start + end) / 2, width / 2 + 3
    ends = f"M{start:.1f} {y - 4:.1f}v8M{end:.1f} {y - 4:.1f}v8"
    broken = f"{ends}M{start:.1f} {y:.1f}H{middle - gap:.1f}M{middle + gap:.1f} {y:.1f}H{end:.1f}"
    return fragment(path(broken, f"size-{kind}"), label(middle, y + 4, text, f"{kind} mid"))
