"""HTML and SVG elements as strings. Every text passes through `element`, which escapes it: nothing else writes tags."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

# What XML 1.0 allows; the rest (NUL, escape, half a surrogate pair) would make a picture unreadable.
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
VOID = frozenset({"meta", "br", "rect", "line", "path", "circle", "col"})


class Markup(str):
    """Text that is markup already. Only `element`, `fragment` and this package's style sheets make it."""

    __slots__ = ()


Child = str | Iterable[str]  # a plain string is text and gets escaped; Markup goes in as it is


def escape(text: str) -> Markup:
    """Make `text` harmless inside elements and quoted attributes, in HTML and XML alike."""
    return Markup(html.escape(FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text), quote=True))


def fragment(*children: Child) -> Markup:
    """Join children: Markup as it is, plain strings escaped, iterables of both."""
    return Markup("".join(_written(child) for child in children))


def _written(child: Child) -> str:
    if isinstance(child, Markup):
        return child
    return escape(child) if isinstance(child, str) else fragment(*child)


def element(tag: str, *children: Child, **attributes: str | float | None) -> Markup:
    """Write an element. `class_` gives `class`, other underscores give hyphens; an attribute of None is left out."""
    pairs = [
        f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for name, value in attributes.items()
        if value is not None
    ]
    if not children and tag in VOID:
        return Markup(f"<{tag}{''.join(pairs)}/>")
    return Markup(f"<{tag}{''.join(pairs)}>{fragment(*children)}</{tag}>")


def _value(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else short(value)


def short(value: float) -> str:
    """Write a coordinate: a tenth of a pixel is enough, and keeps pages with many samples small."""
    written = f"{value:.1f}"
    written = written.removesuffix(".0")
    return "0" if written == "-0" else written
