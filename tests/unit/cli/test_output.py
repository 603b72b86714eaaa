from __future__ import annotations

from bascule.cli.output import GIB, MIB, seconds_text, size_text, table


def test_tables_are_aligned_and_have_no_trailing_blanks() -> None:
    text = table(["NAME", "SIZE>", "NOTE"], [["a", 1000, None], ["longer", 2, "x"]])

    assert text.splitlines() == ["NAME    SIZE  NOTE", "a       1000  -", "longer     2  x"]


def test_sizes() -> None:
    sizes = [0, 1023, 1536, 10 * MIB, 1.5 * MIB, GIB, 1.26 * GIB, 100 * GIB]

    assert [size_text(size) for size in sizes] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "10 MiB",
        "1.5 MiB",
        "1 GiB",
        "1.3 GiB",
        "100 GiB",
    ]


def test_times() -> None:
    assert [seconds_text(s) for s in (None, 0.849, 12.34, 125.2)] == [None, "0.85 s", "12.3 s", "2 min 5 s"]
