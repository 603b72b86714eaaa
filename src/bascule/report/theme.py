"""Colours and type of the page and its pictures, for light and dark, screen and paper.

Every colour is a custom property with a light and a dark value; letters and lines that carry meaning keep a contrast
of at least 4.5 to 1 against the ground and the panel. A colour always means the same: see the comments.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from bascule.report.markup import Markup

PALETTE = {
    # name: (light, dark)
    "ground": ("#ffffff", "#10151b"),
    "panel": ("#f5f7f9", "#182028"),
    "ink": ("#1b222a", "#e7edf3"),
    "muted": ("#566270", "#9eacba"),
    "rule": ("#c9d1d9", "#3b4754"),
    "grid": ("#e6eaee", "#27313b"),
    "copy": ("#0b5fb0", "#6fb4ff"),  # the copy, and the source's clock
    "copy-soft": ("#dbe9f7", "#17314a"),
    "other": ("#9a5200", "#f0a658"),  # the destination's clock
    "client": ("#0a7462", "#4ccfb0"),  # what the client saw
    "lost": ("#c21a36", "#ff7f8c"),  # frames lost, goals missed
    "dark": ("#444e59", "#b4c0cc"),  # the blackout
    "veil": ("#1b222a26", "#e7edf333"),  # the blackout, laid over what happened meanwhile
}

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def page_style() -> Markup:
    """Give the style sheet of a page with pictures in it."""
    return Markup(_themed() + _sheet("picture.css") + _sheet("page.css"))


def picture_style() -> Markup:
    """Give the style sheet of a picture that is a file of its own."""
    return Markup(_themed() + _sheet("picture.css"))


def _themed() -> str:
    """Set the colours: dark only on a screen, since paper is white."""
    light, dark = (" ".join(f"--{name}: {pair[which]};" for name, pair in PALETTE.items()) for which in (0, 1))
    return (
        f"\n:root {{ color-scheme: light dark; font-family: {FONT}; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        "@media print { :root { color-scheme: light } }\n"
    )


@cache
def _sheet(name: str) -> str:
    return files("bascule.report").joinpath("style", name).read_text(encoding="utf-8")
