"""The benches run in the project's own environment, whichever Python they are started with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def enter() -> None:
    """Start this program again with `.venv`'s Python, unless that is what runs it, and find `bascule` in this tree."""
    python = ROOT / ".venv" / "bin" / "python"
    if Path(sys.prefix) != ROOT / ".venv":
        if not python.exists():
            sys.exit("bench: there is no environment yet: run scripts/setup")
        os.execv(python, [str(python), *sys.argv])  # noqa: S606 - another Python, the same program
    sys.path.insert(0, str(ROOT / "src"))
