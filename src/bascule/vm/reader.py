"""Reads tables key by key and notes every mistake on the way instead of stopping at the first."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

from bascule.errors import Finding
from bascule.vm.rules import InvalidValueError, Rule, did_you_mean, shown

T = TypeVar("T")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,40}")


class Table:
    """One table of the file. A value of None (JSON's null) counts as absent."""

    def __init__(self, values: Mapping[str, object], findings: list[Finding], path: str = "") -> None:
        """`path` is the table's own key path, empty for the file itself; `findings` is shared by all its tables."""
        self.findings = findings
        self._values = {key: value for key, value in values.items() if value is not None}
        self._path = path
        self._known: list[str] = []

    def require(self, key: str, rule: Rule[T], otherwise: T) -> T:
        """The value of `key`; if it is missing or wrong that is a finding, and `otherwise` stands in for it."""
        if key not in self._values:
            self._known.append(key)
            self.mistake(key, "is missing", rule.allowed)
            return otherwise
        return self.take(key, rule, otherwise)

    def take(self, key: str, rule: Rule[T], default: T) -> T:
        """The value of `key`, or `default` if there is none; if it is wrong, a finding and `default` too."""
        self._known.append(key)
        if key not in self._values:
            return default
        try:
            return rule.convert(self._values[key])
        except InvalidValueError as error:
            hint = f"; {error.hint}" if error.hint else ""
            self.mistake(key, str(error), f"allowed: {rule.allowed}{hint}")
            return default

    def table(self, key: str) -> Table | None:
        """The table [key], or None if it is absent or no table."""
        self._known.append(key)
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.mistake(key, f"{shown(value)} is not a table", f"allowed: a table [{key}]")
            return None
        return Table(value, self.findings, self.subject(key))

    def tables(self, key: str, most: int) -> list[Table]:
        """The tables [[key]], at most `most`."""
        self._known.append(key)
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            given = "a single table" if isinstance(value, Mapping) else shown(value)
            self.mistake(key, f"{given} is not a list of tables", f"allowed: one table [[{key}]] for each")
            return []
        if len(value) > most:
            self.mistake(key, f"there are {len(value)}", f"allowed: at most {most}")
        return [Table(item, self.findings, self.subject(f"{key}[{index}]")) for index, item in enumerate(value[:most])]

    def finish(self, elsewhere: Collection[str] = ()) -> None:
        """Report the keys that nobody asked for. `elsewhere` are those that would be known at the top of the file."""
        for key in self._values:
            if key in self._known:
                continue
            if key in elsewhere:
                # In TOML a key belongs to the last [table] above it, which is easily forgotten.
                remedy = f"{key} belongs to the whole VM: move it above the first [table]"
            else:
                allowed = f"allowed: {', '.join(self._known)}"
                remedy = "; ".join(filter(None, (did_you_mean(key, self._known), allowed)))
            self.mistake(key if _BARE_KEY.fullmatch(key) else shown(key), "unknown key", remedy)

    def mistake(self, key: str, problem: str, remedy: str) -> None:
        """Note a finding on `key` of this table."""
        self.findings.append(Finding(self.subject(key), problem, remedy))

    def subject(self, key: str) -> str:
        """The full key path of `key`."""
        return f"{self._path}.{key}" if self._path else key

    @property
    def known(self) -> tuple[str, ...]:
        """The keys asked for so far."""
        return tuple(self._known)
