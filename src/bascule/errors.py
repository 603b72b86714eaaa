"""Every error that a user of Bascule can meet, and what each kind promises.

    BasculeError
    ├── Refused    nothing changed; the message says what to mend        exit status 1
    ├── Failed     something was done; the VM is safe, and this is left   exit status 3
    └── Unknown    only looking can tell; the message says how            exit status 4

Exit status 0 is "done" and 2 is "wrong usage", which the command line gives by itself.
The three kinds are never mixed: a message says what was attempted on what, why it failed,
and, as `remedy`, what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found wrong.

    `subject` names the thing looked at (a key of a file, a disk, a host), `problem` says what is wrong with
    it, and `remedy` what would mend it.
    """

    subject: str
    problem: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.subject}: {self.problem}"
        return f"{text} ({self.remedy})" if self.remedy else text


class BasculeError(Exception):
    """Base of all errors meant for the user."""

    kind: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 3

    def __init__(self, message: str, remedy: str = "", findings: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.findings = tuple(findings)

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {finding}" for finding in self.findings)]
        if self.remedy:
            lines.append(self.remedy)
        return "\n".join(lines)


class Refused(BasculeError):
    """A request that was turned down before anything changed."""

    kind = "refused"
    exit_status = 1

    @classmethod
    def from_findings(cls, attempted: str, findings: Sequence[Finding]) -> Refused:
        """Refuse `attempted` ("define vm web from web.toml") for all `findings` together."""
        count = len(findings)
        return cls(f"cannot {attempted}: {count} problem{'s' if count != 1 else ''} found", findings=findings)


class Failed(BasculeError):
    """A request that failed midway; the VM is safe and the message says what is left."""

    kind = "failed"
    exit_status = 3


class Unknown(BasculeError):
    """A request whose result cannot be known from here; the message says how to find out."""

    kind = "unknown"
    exit_status = 4
