"""Drawing with braille characters: two dots wide and four high in each place of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

DOTS_WIDE = 2
DOTS_HIGH = 4
_FIRST = 0x2800
# Unicode 15, 21.1: the bits of the dots, by row from the top and by column.
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def bars(spans: Sequence[tuple[float, float] | None], rows: int) -> list[str]:
    """Draw a vertical bar for each column of dots, from a low to a high value between 0 (bottom) and 1 (top).

    Returns `rows` lines of half as many characters as there are columns; None leaves a column empty. Each bar has one
    dot at least.
    """
    dots = rows * DOTS_HIGH
    width = -(-len(spans) // DOTS_WIDE)
    cells = [[0] * width for _ in range(rows)]
    for column, span in enumerate(spans):
        if span is None:
            continue
        low, high = (min(dots - 1, max(0, int(value * dots))) for value in span)
        for dot in range(low, high + 1):
            from_top = dots - 1 - dot
            cells[from_top // DOTS_HIGH][column // DOTS_WIDE] |= _BITS[from_top % DOTS_HIGH][column % DOTS_WIDE]
    return ["".join(chr(_FIRST + bits) if bits else " " for bits in line) for line in cells]
