"""What leaves the command line: text, tables, JSON and errors.

Everything goes through `say`. A reader that goes away (`bascule moves | head -1`) never changes what a
command does or how it exits: the rest of the output goes nowhere. What others wrote (QEMU's stderr, a file that is
no VM definition) cannot steer the terminal: control characters are written out.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from bascule.errors import BasculeError

KIB = 1024
MIB = KIB * 1024
GIB = MIB * 1024


CONTROLS = {number: f"\\x{number:02x}" for number in (*range(32), *range(127, 160)) if chr(number) not in "\n\t"}


def say(text: str = "", *, to: TextIO | None = None) -> None:
    """Write `text` and a newline to stdout, or to the stream `to`."""
    stream = to or sys.stdout
    try:
        stream.write(text.translate(CONTROLS) + "\n")
        stream.flush()
    except BrokenPipeError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Send whatever `stream` still holds, and all that follows, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def say_json(data: Any) -> None:
    """Write `data` as indented JSON to stdout."""
    say(json.dumps(data, indent=2))


def say_error(error: BasculeError, *, as_json: bool) -> None:
    """Write `error` to stderr, as sentences or as `{"error": {...}}`."""
    if as_json:
        findings = [{"subject": f.subject, "problem": f.problem, "remedy": f.remedy} for f in error.findings]
        record = {"kind": error.kind, "message": error.message, "remedy": error.remedy, "findings": findings}
        say(json.dumps({"error": record}), to=sys.stderr)
    else:
        say(f"bascule: {error}", to=sys.stderr)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an aligned table; columns of numbers stand to the right, None shows as `-`.

    A heading's name carries the alignment: one that ends with `>` is written without it, to the right.
    """
    names = [heading.removesuffix(">") for heading in headings]
    lines = [names, *(["-" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if heading.endswith(">") else cell.ljust(width)
            for cell, width, heading in zip(line, widths, headings, strict=True)
        ).rstrip()
        for line in lines
    )


def size_text(size_bytes: float) -> str:
    """Return a size for people: `312 MiB`, `1.5 GiB`."""
    for unit_bytes, unit in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size_bytes >= unit_bytes:
            value = size_bytes / unit_bytes
            return f"{value:.0f} {unit}" if value >= 10 or value == int(value) else f"{value:.1f} {unit}"
    return f"{size_bytes:.0f} B"


def seconds_text(seconds: float | None) -> str | None:
    """Return a time for people: `0.85 s`, `12.3 s`, `2 min 5 s`; None stays None."""
    if seconds is None:
        return None
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
