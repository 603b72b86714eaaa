"""Read values out of JSON written by somebody else: a missing, null or ill-typed value never stops a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST = 10**18


def text(data: Mapping[str, Any], key: str) -> str:
    """Give the string under `key`; a missing or null one is empty, anything else is written out."""
    value = data.get(key)
    return "" if value is None else str(value)


def finite(value: object) -> float | None:
    """Give `value` when it is a number that a move can have.

    JSON written by Python may hold NaN and infinities, true is no number, and what is beyond MOST would only turn
    into an infinity later.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -MOST <= value <= MOST else None


def number(data: Mapping[str, Any], key: str) -> float | None:
    """Give the number under `key`, or None."""
    return finite(data.get(key))


def amount(data: Mapping[str, Any], key: str) -> float:
    """Give the number under `key`, or 0."""
    return finite(data.get(key)) or 0


def count(data: Mapping[str, Any], key: str) -> int:
    """Give the whole number under `key`, or 0."""
    return int(amount(data, key))


def part(data: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """Give the object under `key`, or None."""
    value = data.get(key)
    return value if isinstance(value, Mapping) else None


def rows(data: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Give the objects of the list under `key`; no list is an empty one."""
    value = data.get(key)
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []


def pairs(data: Mapping[str, Any], key: str) -> list[tuple[float, float | None]]:
    """Give the [number, number or null] pairs of the list under `key`."""
    value = data.get(key)
    if not isinstance(value, list | tuple):
        return []
    found = []
    for pair in value:
        if isinstance(pair, list | tuple) and len(pair) == 2:
            first = finite(pair[0])
            if first is not None:
                found.append((first, finite(pair[1])))
    return found
