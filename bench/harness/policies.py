"""How another tool moves a VM: its settings as QMP, its rule for steering, and where all of that is written down.

The settings are data, in `bench/policies.toml`; the rules are code, in `controllers`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "policies.toml"
WAYS = ("events", "poll", "poll-destination")
LIFTED = "-lifted"


@dataclass(frozen=True, slots=True)
class Policy:
    """One row of the comparison.

    `runs_by`: who lets the destination run, "qemu" as soon as it has everything, or "manager" by `cont`.
    `notices_by`: how the manager learns that it can: by QEMU's events, by polling the source or the destination.
    `poll_s` is how often it looks, also to steer. `rule` names a controller, `rule_settings` are its numbers.
    `destination_as_root`: the destination's QEMU keeps root, for what its user is not allowed (userfaultfd).
    """

    name: str
    title: str
    sources: tuple[str, ...]
    note: str = ""
    capabilities: tuple[str, ...] = ()
    parameters: Mapping[str, int] = field(default_factory=dict)
    runs_by: str = "qemu"
    notices_by: str = "events"
    poll_s: float = 1.0
    rule: str = "none"
    rule_settings: Mapping[str, Any] = field(default_factory=dict)
    destination_as_root: bool = False

    def settings(self) -> str:
        """Write every setting in a line or two."""
        parts = [f"capabilities {', '.join(self.capabilities) or 'none'}"]
        parts += [f"{name} {_number(name, value)}" for name, value in self.parameters.items()]
        parts.append(f"rule {self.rule}" + (f" ({_inner(self.rule_settings)})" if self.rule_settings else ""))
        if self.runs_by == "qemu":
            parts.append("QEMU lets the destination run")
        else:
            how = {
                "events": "at QEMU's event",
                "poll": f"polling the source every {self.poll_s:g} s",
                "poll-destination": f"polling the destination every {self.poll_s:g} s",
            }[self.notices_by]
            parts.append(f"the manager lets the destination run, {how}")
        return "; ".join(parts)


def read(file: Path = FILE) -> dict[str, Policy]:
    """Read the rows of the comparison, each policy followed by the same with its bandwidth cap lifted, if it has one.

    Raises ValueError for a key that means nothing: a setting that is silently ignored would be unfair.
    """
    data = tomllib.loads(file.read_text())
    found: dict[str, Policy] = {}
    for table in data["policy"]:
        policy = _policy(dict(table))
        found[policy.name] = policy
        if "lifted" in table:
            found[policy.name + LIFTED] = replace(
                policy,
                name=policy.name + LIFTED,
                title=f"{policy.title}, no cap",
                parameters={**policy.parameters, **table["lifted"]},
            )
    return found


def _policy(table: dict[str, Any]) -> Policy:
    table.pop("lifted", None)
    steering = dict(table.pop("steering", {}))
    policy = Policy(
        name=table.pop("name"),
        title=table.pop("title"),
        sources=tuple(table.pop("sources")),
        note=table.pop("note", ""),
        capabilities=tuple(table.pop("capabilities", ())),
        parameters=dict(table.pop("parameters", {})),
        runs_by=table.pop("runs_by"),
        notices_by=table.pop("notices_by", "events"),
        poll_s=table.pop("poll_s", 1.0),
        rule=steering.pop("rule", "none"),
        rule_settings=steering,
        destination_as_root=table.pop("destination_as_root", False),
    )
    if table:
        raise ValueError(f"policy {policy.name}: unknown keys {', '.join(table)}")
    if policy.runs_by not in ("qemu", "manager") or policy.notices_by not in WAYS:
        raise ValueError(f"policy {policy.name}: runs_by or notices_by is none of those known")
    return policy


def _number(name: str, value: int) -> str:
    if name == "downtime-limit":
        return f"{value} ms"
    if name in ("max-bandwidth", "max-postcopy-bandwidth"):
        return "without a limit" if value > 2**60 else f"{value / 2**20:g} MiB/s"
    if name.endswith("-size"):
        return f"{value / 2**20:g} MiB"
    return f"{value}"


def _inner(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
