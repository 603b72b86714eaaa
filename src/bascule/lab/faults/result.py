"""The result of one case: a line for the list of cases, and the whole story for one that failed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bascule.lab.agents import log_tail
from bascule.lab.faults.case import Case
from bascule.lab.faults.evidence import Evidence
from bascule.lab.faults.verdict import Finding
from bascule.lab.laboratory import Lab


@dataclass(frozen=True, slots=True)
class Result:
    """A case, what was seen and what is wrong with it."""

    case: Case
    seen: Evidence
    findings: tuple[Finding, ...]
    lab: Lab

    @property
    def lost(self) -> str:
        """Why the VM was allowed to be lost, if it was."""
        return self.seen.excuse

    @property
    def unknown(self) -> bool:
        """Whether the command, or the journal for a while, could not know the outcome."""
        return self.seen.exit_status == 4

    @property
    def seconds(self) -> float:
        """How long it took, with the next move."""
        return self.seen.ended_s - self.seen.began_s

    def line(self) -> str:
        """One line: how it ended, and the case so that it can be repeated."""
        word = (
            "FAILED" if self.findings else "held" if self.seen.held else "lost, as it had to be" if self.lost else "ok"
        )
        status = "killed" if self.seen.exit_status is None else f"exit {self.seen.exit_status}"
        hits = ",".join(hit.phase for hit in self.seen.hits) or "none"
        return f"{word:<8} {self.seconds:5.1f} s {status:<7} hit in {hits:<28} {self.case}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.case.name,
            "case": str(self.case),
            "exit_status": self.seen.exit_status,
            "hits": [
                {
                    "kind": hit.fault.kind,
                    "target": hit.fault.target,
                    "side": hit.fault.side,
                    "aimed": hit.fault.phase,
                    "phase": hit.phase,
                }
                for hit in self.seen.hits
            ],
            "findings": [{"kind": finding.kind, "what": finding.what} for finding in self.findings],
            "lost": self.lost,
            "held": self.seen.held,
            "unknown": self.unknown,
            "seconds": round(self.seconds, 1),
        }

    def story(self) -> str:
        """Everything that is known of the case."""
        return "\n".join(self._story())

    def _story(self) -> Iterator[str]:
        seen = self.seen
        yield f"{self.case.name}: {self.case}"
        yield from (f"  {finding}" for finding in self.findings)
        yield f"the move {seen.move_id} from {' to '.join(seen.hosts.values())}:"
        yield from (f"  {at - seen.began_s:8.4f} {text}" for at, text in seen.story)
        for qemu in seen.qemus:
            spans = ", ".join(self._span(span.begin_s, span.end_s) for span in qemu.spans) or "never"
            end = f", died at {qemu.dead_s - seen.began_s:.4f}" if qemu.dead_s else ""
            yield f"  QEMU {qemu.pid} on {qemu.host} ran {spans}{end}"
        yield f"the command said, with status {seen.exit_status}:\n{_indented(seen.said)}"
        for side, said in seen.words.items():
            host = seen.hosts[side]
            when = " before its operator started it again" if seen.started_again else ""
            yield f"{host} ({side}) says: the VM is {said.state}{when}; its record: {json.dumps(said.record)}"
            yield f"  its status: {said.status}"
            yield from (f"  {json.dumps(fact)}" for fact in said.facts)
            yield f"the end of its log:\n{log_tail(self.lab.host(host).places)}"
        yield f"the guest says: {json.dumps(seen.guest)}"
        yield f'repeat it with: bench/faults --case "{self.case}"'

    def _span(self, begin_s: float, end_s: float | None) -> str:
        end = "now" if end_s is None else f"{end_s - self.seen.began_s:.4f}"
        return f"{begin_s - self.seen.began_s:.4f}..{end}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines())
