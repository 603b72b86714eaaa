"""The states of a move as Mermaid diagrams, drawn from the engine's own tables.

`python -m bascule.migration.diagram` prints what docs/states.md holds; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from bascule.migration import destination, source


def mermaid(successors: Mapping[type, tuple[type, ...]], first: type, after_the_decision: Set[type]) -> str:
    """Draw one side. The thick states are past the point of no return."""
    lines = ["stateDiagram-v2", f"    [*] --> {first.__name__}"]
    for state, following in successors.items():
        lines += [f"    {state.__name__} --> {next_state.__name__}" for next_state in following]
        if not following:
            lines.append(f"    {state.__name__} --> [*]")
    lines.append("    classDef decided stroke-width:4px")
    lines += [f"    class {state.__name__} decided" for state in successors if state in after_the_decision]
    return "\n".join(lines)


def page() -> str:
    """Return the whole of docs/states.md."""
    parts = [
        "# The states of a move",
        "This page is generated from the code: `python -m bascule.migration.diagram > docs/states.md`.",
        "States with a thick border are past the point of no return: the decision register holds `taken`, and the VM",
        "belongs to the destination whatever happens next.",
    ]
    for name, module, first in (
        ("source", source, source.Checking),
        ("destination", destination, destination.Preparing),
    ):
        picture = mermaid(module.SUCCESSORS, first, module.AFTER_THE_DECISION)
        parts += [
            "",
            f"## The {name}",
            "",
            "```mermaid",
            picture,
            "```",
            "",
            "| state | meaning |",
            "|---|---|",
        ]
        parts += [f"| {s.__name__} | {_first_line(s)} |" for s in module.SUCCESSORS]
    return "\n".join(parts) + "\n"


def _first_line(state: type) -> str:
    return " ".join((state.__doc__ or "").strip().split("\n\n")[0].split())


if __name__ == "__main__":
    print(page(), end="")
