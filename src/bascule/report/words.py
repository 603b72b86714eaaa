"""Numbers with their units, as people write them: 14.2 ms, 3.42 s, 61.2 MiB, 1 kHz, 3,412.

A space that no line may break at, GLUE, stands between a number and its unit.
"""

from __future__ import annotations

GLUE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"  # a figure that isn't there
MIB = 1 << 20
GIB = 1 << 30


def _short(value: float, decimals: int) -> str:
    written = f"{value:,.{decimals}f}"
    written = written.rstrip("0").rstrip(".") if "." in written else written
    return "0" if written == "-0" else written


def milliseconds(ms: float | None) -> str:
    """Write a time that is usually short: 0.04 ms, 0.3 ms, 14.2 ms, 142 ms, 3.42 s."""
    if ms is None:
        return NONE
    if abs(ms) >= 999.5:
        return seconds(ms / 1e3, decimals=2)
    if abs(ms) >= 99.95:
        return f"{ms:.0f}{GLUE}ms"
    return f"{_short(ms, 1 if abs(ms) >= 0.95 else 2)}{GLUE}ms"


def short_time(ms: float | None) -> str:
    """Write a round trip, which may be very short: 8 µs, 0.3 ms, 14.2 ms."""
    return f"{1000 * ms:.0f}{GLUE}µs" if ms is not None and 0 < ms < 0.0995 else milliseconds(ms)


def seconds(s: float | None, decimals: int = 1) -> str:
    """Write a time that is usually long: 420 ms, 2.3 s, 1 min 12 s, 2 h 5 min."""
    if s is None:
        return NONE
    if abs(s) < 0.9995:
        return milliseconds(s * 1e3)
    if abs(s) < 10:
        return f"{_short(s, decimals)}{GLUE}s"
    if abs(s) < 99.95:
        return f"{_short(s, 1)}{GLUE}s"
    whole = round(s)
    if whole < 3600:
        return f"{whole // 60}{GLUE}min {whole % 60}{GLUE}s" if whole % 60 else f"{whole // 60}{GLUE}min"
    minutes = round(whole / 60)
    return f"{minutes // 60}{GLUE}h {minutes % 60}{GLUE}min" if minutes % 60 else f"{minutes // 60}{GLUE}h"


def memory(size_bytes: float | None) -> str:
    """Write an amount of memory: 512 KiB, 4.3 MiB, 1,031 MiB, 12.4 GiB."""
    if size_bytes is None:
        return NONE
    if abs(size_bytes) < 1024:
        return f"{size_bytes:.0f}{GLUE}B"
    if abs(size_bytes) < MIB:
        return f"{_short(size_bytes / 1024, 0)}{GLUE}KiB"
    if abs(size_bytes) >= 10 * GIB:
        return f"{_short(size_bytes / GIB, 1)}{GLUE}GiB"
    mib = size_bytes / MIB
    return f"{_short(mib, 1 if mib < 99.95 else 0)}{GLUE}MiB"


def rate(bytes_per_s: float | None) -> str:
    """Write a rate: 731 MiB/s."""
    return NONE if bytes_per_s is None else f"{memory(bytes_per_s)}/s"


def frequency(hz: float | None) -> str:
    """Write how often something is done: 250 Hz, 1 kHz."""
    if hz is None:
        return NONE
    return f"{_short(hz / 1e3, 2)}{GLUE}kHz" if hz >= 1e3 else f"{_short(hz, 2)}{GLUE}Hz"


def percent(value: float | None) -> str:
    """Write by how much something is over (+) or under (-): +18 %, -4 %, +0.4 %."""
    if value is None:
        return NONE
    if abs(value) < 0.05:
        return f"0{GLUE}%"
    written = f"{value:+,.{0 if abs(value) >= 9.5 else 1}f}".removesuffix(".0")
    return f"{written}{GLUE}%".replace("-", MINUS)


def counted(count: int, noun: str) -> str:
    """Write a count with its noun: 1 round, 3 rounds."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def visible(text: str) -> str:
    """Make `text` one line that can do nothing to a terminal or a log: control characters are written out."""
    return "".join(_visible_char(char) for char in " ".join(text.split()))


def _visible_char(char: str) -> str:
    code = ord(char)
    if char.isprintable():
        return char
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
